"""``train --harden``: universal perturbations kept up against the model while it is trained.

After Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein, *Universal Adversarial Training* (AAAI 2020): one sign-gradient step on
the perturbation a training step, from the gradient that training computes anyway, so an epoch costs about the same. Ours: a
bank of them, half in L∞ and half in L2, taken in turn; every second image of a batch stays clean; each epoch starts them anew
from noise, which keeps an epoch a function of its number and stops the model from learning one old perturbation by heart.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

ZETA = 0.05  # somewhat above the 4 % that audits use
BANK = 4
SHARE = 0.25  # step, as a share of the radius a pixel has


class Bank:
    """Universal perturbations in the units of the model's input (pixel/128).

    Args:
        images: uint8 [N, S, S, 3], whose mean norms the radii are a share of.
        zeta: that share.
    """

    def __init__(self, images: np.ndarray, *, zeta: float, seed: int) -> None:
        flat = images.reshape(len(images), -1).astype(np.float32) / 128
        self.seed, self.shape = seed, images.shape[1:]
        self.radii = [
            zeta * float(np.abs(flat).max(axis=1).mean()),
            zeta * float(np.linalg.norm(flat, axis=1).mean()),
        ]
        self.values = keras.Variable(np.zeros((BANK, *self.shape), np.float32), trainable=False)
        width = [self.radii[0], self.radii[1] / math.sqrt(flat.shape[1])]
        self.width = np.array([width[i % 2] for i in range(BANK)], np.float32)

    def begin(self, epoch: int) -> None:
        """New noise of half the radius, a function of the seed and the epoch alone."""
        rng = np.random.default_rng([self.seed, epoch, 31])
        noise = rng.choice([-0.5, 0.5], (BANK, *self.shape)).astype(np.float32)
        self.values.assign(noise * self.width[:, None, None, None])

    def add(self, images: Any, r: Any) -> Any:
        """Every second image perturbed, in the valid range."""
        chosen = ops.cast(ops.arange(ops.shape(images)[0]) % 2, images.dtype)[:, None, None, None]
        return ops.clip(images + chosen * r, -1.0, 127 / 128)

    def ascend(self, which: Any, r: Any, gradient: Any) -> None:
        """One step up the loss, back into the ball: even ones L∞, odd ones L2."""
        r = r + SHARE * ops.take(self.width, which) * ops.sign(gradient)
        cube = ops.clip(r, -self.radii[0], self.radii[0])
        ball = r * ops.minimum(1.0, self.radii[1] / ops.maximum(ops.norm(ops.ravel(r)), 1e-12))
        chosen = ops.where(which % 2 == 0, cube, ball)
        mine = ops.reshape(ops.equal(ops.arange(BANK), which), (BANK, 1, 1, 1))
        self.values.assign(ops.where(mine, chosen, self.values.value))

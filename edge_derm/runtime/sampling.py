"""Passes: the probabilities that a bundle, or a few, give an image when asked more than once.

Dropout, views and ensembles multiply: every bundle looks at every view under every dropout mask. All of it follows from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Sequence

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.errors import BackendError, BundleError
from edge_derm.runtime.classifier import Classifier
from edge_derm.runtime.dropout import DropoutPasses
from edge_derm.runtime.encoding import Write
from edge_derm.runtime.views import DIHEDRAL, turn, views

MOST_BATCH = 64  # images in one run


@dataclass(frozen=True)
class Sampling:
    """How often to ask: dropout passes (0: none), views (0: the image alone), and what the masks are drawn with."""

    mc: int = 0
    tta: int = 0
    rate: float | None = None  # None: what the bundle was trained with
    depth: int | None = None
    seed: int = 0

    @property
    def passes(self) -> int:
        """Passes of one bundle."""
        return max(1, self.mc) * max(1, self.tta)


class Sampler:
    """One or more bundles with the same labels and input, opened for passes."""

    def __init__(
        self, bundles: Sequence[Bundle], sampling: Sampling, *, kernels: str = "default", threads: int = 1
    ) -> None:
        """Open every bundle as often as it is needed.

        Raises:
            BundleError: ``labels-differ``, ``size-differs``, ``dropout-unknown``. BackendError. ModelError: ``cut-…``.
        """
        _check_alike(bundles)
        self.sampling = sampling
        self.classifiers = [Classifier.open(bundle, kernels=kernels, threads=threads) for bundle in bundles]
        self._dropouts, self._viewers = [], []
        for bundle in bundles:
            if sampling.mc:
                self._dropouts.append(
                    DropoutPasses(
                        bundle,
                        sampling.mc,
                        rate=sampling.rate,
                        depth=sampling.depth,
                        seed=sampling.seed,
                        kernels=kernels,
                        threads=threads,
                    )
                )
            elif sampling.tta > 1:
                self._viewers.append(
                    Viewer(bundle, sampling.tta, seed=sampling.seed, kernels=kernels, threads=threads)
                )

    @property
    def first(self) -> Classifier:
        """The bundle whose manifest decides."""
        return self.classifiers[0]

    @property
    def passes(self) -> int:
        """T of ``sample``."""
        return self.sampling.passes * len(self.classifiers)

    def sample(self, images: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of every pass.

        Args:
            images: uint8 [N, S, S, 3], preprocessed.

        Returns:
            float32 [T, N, C]; of each bundle, of each view, the dropout passes.
        """
        rows = [self._of_bundle(number, images) for number in range(len(self.classifiers))]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def _of_bundle(self, number: int, images: np.ndarray) -> np.ndarray:
        """[T, N, C] of one bundle."""
        classifier, tta = self.classifiers[number], self.sampling.tta
        if self.sampling.mc and tta:
            looked_at = views(images, tta, seed=self.sampling.seed).swapaxes(0, 1)
            scores = np.concatenate([self._dropouts[number].stored(view) for view in looked_at])
        elif self.sampling.mc:
            scores = self._dropouts[number].stored(images)
        elif self._viewers:
            scores = self._viewers[number].stored(images)
        else:
            scores = classifier.stored(images)[np.newaxis]
        return classifier.scores.probabilities(scores)


class Viewer:
    """Every view of an image at once, as one batch whose layers all threads share.

    One run on two threads beats two copies on one thread each, which wait for each other at the end and for their start, most
    of all where another process holds one of the cores. The symmetries of an image are written straight into the input
    tensor, encoded once: a copy of eight views would cost a tenth of a run.
    """

    def __init__(self, bundle: Bundle, count: int, *, seed: int, kernels: str, threads: int) -> None:
        self._count, self._seed = count, seed
        self._together = True
        try:
            self._classifier = Classifier.open(
                bundle, kernels=kernels, threads=threads, batch=min(count, MOST_BATCH)
            )
        except BackendError as error:
            if error.code != "backend-refused":
                raise
            self._together = False  # somebody's file that takes one image at a time
            self._classifier = Classifier.open(bundle, kernels=kernels, threads=threads)

    def stored(self, images: np.ndarray) -> np.ndarray:
        """Scores [V, N, C], as the output tensor stores them, of the views of uint8 images [N, S, S, 3]."""
        images = self._classifier.checked(images)
        if self._count > DIHEDRAL or not self._together or not len(images):
            looked_at = views(images, self._count, seed=self._seed)
            scores = self._classifier.stored(looked_at.reshape(-1, *images.shape[1:]))
            return scores.reshape(len(images), self._count, scores.shape[-1]).swapaxes(0, 1)
        rows = [self._classifier.stored_of_written(partial(_write_views, image)) for image in images]
        return rows[0][:, np.newaxis] if len(rows) == 1 else np.stack(rows, axis=1)


def _write_views(image: np.ndarray, encode: Write, tensor: np.ndarray) -> None:
    encode(image[np.newaxis], tensor[:1])
    turn(tensor)


def _check_alike(bundles: Sequence[Bundle]) -> None:
    first = bundles[0].manifest
    for other in bundles[1:]:
        if other.manifest.labels != first.labels:
            raise BundleError(
                f"{other.path}: expected the labels {', '.join(first.labels)}, got {', '.join(other.manifest.labels)}: "
                "an ensemble is of bundles that know the same classes in the same order",
                code="labels-differ",
            )
        if other.manifest.input.size_px != first.input.size_px:
            raise BundleError(
                f"{other.path}: expected an input of {first.input.size_px} px, got {other.manifest.input.size_px}",
                code="size-differs",
            )

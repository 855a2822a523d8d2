"""Rescaling between layers so that every channel uses the whole range of its tensor's one activation scale.

After Nagel et al., 2019, https://arxiv.org/abs/1906.04721, for ReLU6: a channel that lives in [lo, hi] is moved to [0, 6],
where the clipping of ReLU6 becomes the clipping of its own range; the next layer takes the inverse. The shift by ``lo``
needs a next layer without padding (a pointwise one), since padding puts zeros where the shifted zero would be.

The float network stays what it was, up to rounding and to values outside what the calibration images showed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

import numpy as np

from edge_derm.modeling.compression.chain import CLIP, Layer, forward

MOST = 8.0  # a channel is never enlarged further: rare channels would make their weights in the next layer too coarse
BINS = 4096  # of a histogram over [0, 6]
RARE = 1e-4  # share of positions that ``usual_ranges`` leaves out at either end
MARGIN = 0.02  # kept free on both sides of what calibration showed


def channel_ranges(
    chain: Sequence[Layer], pixels: np.ndarray, *, batch: int = 64
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Least and greatest value of each channel after each layer on uint8 [N, S, S, 3]."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def observe(name: str, values: Any) -> Any:
        flat = np.asarray(values).reshape(-1, values.shape[-1])
        low, high = flat.min(axis=0), flat.max(axis=0)
        before = found.get(name, (low, high))
        found[name] = (np.minimum(low, before[0]), np.maximum(high, before[1]))
        return values

    for i in range(0, len(pixels), batch):
        forward(chain, pixels[i : i + batch].astype(np.float32) / 128 - 1, observe)
    return found


def usual_ranges(
    chain: Sequence[Layer], pixels: np.ndarray, *, rare: float = RARE
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """As ``channel_ranges``, of layers behind a ReLU6, without the ``rare`` share of positions at either end of each channel."""
    counts: dict[str, np.ndarray] = {}

    def observe(name: str, values: Any) -> Any:
        flat = np.asarray(values).reshape(-1, values.shape[-1])
        bins = np.minimum((flat * (BINS / CLIP)).astype(np.int32), BINS - 1) + BINS * np.arange(flat.shape[1])
        found = np.bincount(bins.ravel(), minlength=BINS * flat.shape[1]).reshape(-1, BINS)
        counts[name] = counts.get(name, 0) + found
        return values

    for i in range(0, len(pixels), 64):
        forward(chain, pixels[i : i + 64].astype(np.float32) / 128 - 1, observe)
    return {name: _without(found, rare) for name, found in counts.items()}


def _without(counts: np.ndarray, rare: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower edge of the lowest bin and upper edge of the highest that hold more than the rare values, of [C, BINS]."""
    spare = rare * counts.sum(axis=1, keepdims=True)
    low = (counts.cumsum(axis=1) > spare).argmax(axis=1)
    high = BINS - (counts[:, ::-1].cumsum(axis=1) > spare).argmax(axis=1)
    return (low * (CLIP / BINS)).astype(np.float32), (high * (CLIP / BINS)).astype(np.float32)


def equalise(
    chain: Sequence[Layer],
    ranges: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    depthwise: float = 0.75,
    pointwise: float = 1.0,
) -> tuple[Layer, ...]:
    """The chain with every channel's range brought towards [0, 6].

    Args:
        ranges: from ``channel_ranges`` of this chain.
        depthwise, pointwise: how far, 0 (not at all) to 1 (wholly), after layers of either kind. Wholly costs nothing where the
            next layer is depthwise, which has a scale a channel; before a pointwise layer it makes columns of weights coarser.
    """
    layers = list(chain)
    for i, (layer, following) in enumerate(zip(chain, chain[1:])):
        if following.kind == "dense":
            break
        low, high = ranges[layer.name]
        share = depthwise if layer.kind == "dw" else pointwise
        low, gain = _move(low, high, share, shift=following.kernel.shape[0] == 1)
        layers[i] = _scaled(layers[i], gain, low)
        layers[i + 1] = _unscaled(layers[i + 1], gain, low)
    return tuple(layers)


def _move(low: np.ndarray, high: np.ndarray, share: float, *, shift: bool) -> tuple[np.ndarray, np.ndarray]:
    """(t, s) of x → s · (x − t)."""
    clipped = high >= CLIP - 1e-3  # there s · (6 − t) must be 6, so that it is cut off where it was
    free = MARGIN * (high - low)
    low = np.maximum(0, low - free) if shift else np.zeros_like(low)
    high = np.minimum(CLIP, high + free)
    alive = high - low > 1e-3
    gain = np.where(alive, np.clip(CLIP / np.where(alive, high - low, 1), 1, MOST), 1) ** share
    low = np.where(clipped, np.minimum(low, CLIP * (1 - 1 / gain)), np.where(alive, low, 0))
    gain = np.where(clipped, CLIP / (CLIP - low), gain)
    return low.astype(np.float32), gain.astype(np.float32)


def _scaled(layer: Layer, gain: np.ndarray, low: np.ndarray) -> Layer:
    kernel = layer.kernel * (gain[:, None] if layer.kind == "dw" else gain)
    return replace(layer, kernel=kernel, bias=gain * (layer.bias - low))


def _unscaled(layer: Layer, gain: np.ndarray, low: np.ndarray) -> Layer:
    moved = low @ layer.kernel[0, 0] if layer.kind == "conv" and layer.kernel.shape[0] == 1 else 0
    kernel = layer.kernel / (gain[:, None] if layer.kind == "dw" else gain[:, None])
    return replace(layer, kernel=kernel, bias=(layer.bias + moved).astype(np.float32))


def centre_logits(chain: Sequence[Layer], pooled: np.ndarray, *, ridge: float = 1e-3) -> tuple[Layer, ...]:
    """Take from all logits alike what the features tell of the mean of the two greatest: the softmax does not see it.

    What is left spans less, so that a step of its int8 scale is finer where decisions are made.

    Args:
        pooled: float [N, C], input of the dense layer.
    """
    head = chain[-1]
    scores = pooled @ head.kernel + head.bias
    centre = np.sort(scores, axis=1)[:, -2:].mean(axis=1)
    mean = pooled.mean(axis=0)
    x = (pooled - mean).astype(np.float64)
    gram = x.T @ x
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    slope = np.linalg.solve(gram, x.T @ (centre - centre.mean())).astype(np.float32)
    kernel, bias = head.kernel - slope[:, None], head.bias - (centre.mean() - mean @ slope)
    return (*chain[:-1], replace(head, kernel=kernel, bias=bias.astype(np.float32)))

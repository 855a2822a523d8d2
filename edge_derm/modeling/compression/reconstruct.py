"""Rounding of weights that keeps each layer's output, not each weight.

Layer after layer, the weights are chosen on their int8 grid such that the layer, fed with what the quantised layers before it give,
comes closest to what the float network has at this place: a least-squares problem whose matrix is the second moments of the inputs.
First in real numbers, which makes up for the layers before; then greedily in integers with the error fed back
(Frantar et al., 2022, https://arxiv.org/abs/2208.11587, of which this is the ungrouped form); then by coordinate descent, for the
nine taps of a depthwise kernel also by moving one step from a tap to another. The bias takes the mean error last.

In every output channel the greatest weight stays ±127, so a converter that looks for the scale finds this very grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, Sequence

import numpy as np

from edge_derm.modeling.compression.chain import CLIP, POOL, Layer, pool

STEPS = 127  # of int8 weights to either side
DAMPING = (
    0.5  # of the mean eigenvalue, added to all: keeps weights near their own where the images say little
)
SWEEPS = 6

Quantise = Callable[[str, np.ndarray], np.ndarray]


def ranges_of(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """One range a tensor out of ``equalise.channel_ranges``; it always holds zero."""
    return {
        name: (min(0.0, float(low.min())), max(0.0, float(high.max()))) for name, (low, high) in found.items()
    }


def quantiser(ranges: Mapping[str, tuple[float, float]]) -> Quantise:
    """int8 activations, simulated: 256 steps over each tensor's range, zero on the grid (as the converter places them)."""

    def quantise(name: str, values: np.ndarray) -> np.ndarray:
        low, high = ranges[name]
        step = max(high - low, 1e-9) / 255
        zero = np.round(-low / step)
        return ((np.clip(np.round(values / step) + zero, 0, 255) - zero) * step).astype(np.float32)

    return quantise


def round_nearest(layer: Layer) -> Layer:
    """The plain rounding of a kernel on its own grid, one scale a channel (dense layers: as well)."""
    scale = np.maximum(np.abs(layer.kernel).max(axis=layer.channel_axes, keepdims=True), 1e-12) / STEPS
    return replace(layer, kernel=(np.round(layer.kernel / scale) * scale).astype(np.float32))


def reconstruct(
    chain: Sequence[Layer],
    pixels: np.ndarray,
    quantise: Quantise,
    *,
    damping: float = DAMPING,
    least: int = 0,
) -> tuple[Layer, ...]:
    """The chain with every kernel on its int8 grid.

    Args:
        pixels: uint8 [N, S, S, 3]; a few hundred training images.
        quantise: what happens to the activations (``quantiser``).
        least: kernels with fewer weights stay as they are.
    """
    exact = deployed = pixels.astype(np.float32) / 128 - 1
    rounded: list[Layer] = []
    for layer in chain:
        if layer.kind == "dense":
            exact, deployed = np.asarray(pool(layer, exact)), quantise(
                POOL, np.asarray(pool(layer, deployed))
            )
        wanted, inputs = _affine(layer, exact), _inputs(layer, deployed)
        best = layer if layer.kernel.size < least else _fit(layer, inputs, wanted, damping)
        rounded.append(best)
        exact, deployed = _clip(wanted), quantise(layer.name, _clip(_outputs(best, inputs)))
        shape = (len(pixels), *_sides(layer, exact, len(pixels)), exact.shape[-1])
        exact, deployed = exact.reshape(shape), deployed.reshape(shape)
    return tuple(rounded)


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, CLIP).astype(np.float32)


def _sides(layer: Layer, flat: np.ndarray, images: int) -> tuple[int, ...]:
    if layer.kind == "dense":
        return ()
    side = round((len(flat) / images) ** 0.5)
    return (side, side)


def _inputs(layer: Layer, x: np.ndarray) -> np.ndarray:
    """What one output sees: [P, D] shared by all channels, or [9, P, C] of a depthwise layer."""
    if layer.kind == "dw":
        return np.stack([tap.reshape(-1, x.shape[-1]) for tap in taps(x, layer.stride, layer.rate)])
    if layer.kind == "conv" and layer.kernel.shape[0] == 3:
        x = np.concatenate(taps(x, layer.stride, layer.rate), axis=-1)
    return x.reshape(-1, x.shape[-1])


def taps(x: np.ndarray, stride: int, rate: int) -> list[np.ndarray]:
    """The nine shifted views [N, H', W', C] of a 3 × 3 kernel with ``same`` padding."""
    sides = [-(-side // stride) for side in x.shape[1:3]]
    pads = [max(0, (out - 1) * stride + 2 * rate + 1 - side) for out, side in zip(sides, x.shape[1:3])]
    x = np.pad(x, [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)])
    spans = [(out - 1) * stride + 1 for out in sides]
    return [
        x[:, i * rate : i * rate + spans[0] : stride, j * rate : j * rate + spans[1] : stride]
        for i in range(3)
        for j in range(3)
    ]


def _matrix(layer: Layer) -> np.ndarray:
    """The kernel as [D, O]; of a depthwise layer [9, C]."""
    return layer.kernel.reshape(-1, layer.bias.size)


def _outputs(layer: Layer, inputs: np.ndarray) -> np.ndarray:
    kernel = _matrix(layer)
    if layer.kind == "dw":
        return np.einsum("dpc,dc->pc", inputs, kernel, optimize=True) + layer.bias
    return inputs @ kernel + layer.bias


def _affine(layer: Layer, x: np.ndarray) -> np.ndarray:
    return _outputs(layer, _inputs(layer, x))


def _fit(layer: Layer, inputs: np.ndarray, wanted: np.ndarray, damping: float) -> Layer:
    """The kernel on the grid, and the bias, that bring ``inputs`` nearest to ``wanted`` [P, O]."""
    kernel = _matrix(layer).astype(np.float64)
    mean, gram, cross = _moments(inputs, wanted)
    gram, damp = _damped(gram, damping)
    target = _solve(gram, cross + (damp * kernel if damp.ndim == 0 else (damp[:, None] * kernel.T).T))
    scale = np.maximum(np.abs(target).max(axis=0), 1e-12) / STEPS
    steps = target / scale
    greedy = np.round(steps) if gram.ndim == 3 else round_greedily(steps, gram)
    chosen = descend(steps, greedy, gram)
    nearest = (chosen * scale).astype(np.float32)
    seen = (mean * nearest).sum(axis=0) if mean.ndim == 2 else mean @ nearest
    return replace(
        layer,
        kernel=nearest.reshape(layer.kernel.shape),
        bias=(wanted.mean(axis=0, dtype=np.float64) - seen).astype(np.float32),
    )


def _moments(inputs: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of the inputs, their central second moments, and those with the wanted output [D, O]."""
    count, middle = len(wanted), wanted.mean(axis=0, dtype=np.float64)
    if inputs.ndim == 2:
        mean = inputs.mean(axis=0, dtype=np.float64)
        # Centred first: of nearly constant inputs (a model of few epochs) the difference of two large moments is rounding alone,
        # and no longer positive definite.
        centred = (inputs - mean).astype(np.float32)
        gram = (centred.T @ centred).astype(np.float64) / count
        return mean, gram, (centred.T @ (wanted - middle).astype(np.float32)).astype(np.float64) / count
    mean = inputs.mean(axis=1, dtype=np.float64)
    second = np.stack([[(a * b).mean(axis=0) for b in inputs] for a in inputs])  # [9, 9, C]
    gram = second.transpose(2, 0, 1) - np.einsum("ic,jc->cij", mean, mean)
    cross = np.stack([(a * wanted).mean(axis=0) for a in inputs]) - mean * middle
    return mean, gram, cross


def _damped(gram: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    size = gram.shape[-1]
    damp = damping * np.trace(gram, axis1=-2, axis2=-1) / size + 1e-8
    return gram + damp[..., None, None] * np.eye(size), np.asarray(damp)


def _solve(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    if gram.ndim == 2:
        return np.linalg.solve(gram, right)
    return np.linalg.solve(gram, right.T[..., None])[..., 0].T


def round_greedily(steps: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Integers [D, O] near ``steps``: input after input, each one's error fed to those still to come."""
    order = np.argsort(-np.diag(gram))
    left = steps[order].astype(np.float64)
    factor = np.linalg.cholesky(np.linalg.inv(gram[np.ix_(order, order)])).T
    chosen = np.empty_like(left)
    for j in range(len(left)):
        chosen[j] = np.clip(np.round(left[j]), -STEPS, STEPS)
        left[j + 1 :] -= np.outer(factor[j, j + 1 :], (left[j] - chosen[j]) / factor[j, j])
    back = np.empty_like(chosen)
    back[order] = chosen
    return back


def descend(steps: np.ndarray, start: np.ndarray, gram: np.ndarray, *, sweeps: int = SWEEPS) -> np.ndarray:
    """Coordinate descent from ``start`` on (q − steps)ᵀ · gram · (q − steps) over integers, column by column.

    Args:
        steps, start: [D, O].
        gram: [D, D], or [O, D, D] (then pairs of coordinates are tried as well).
    """
    anchors = np.abs(steps).argmax(axis=0), np.arange(steps.shape[1])
    chosen = start.copy()
    chosen[anchors] = np.sign(steps[anchors]) * STEPS
    fixed = np.zeros(steps.shape, bool)
    fixed[anchors] = True
    each = gram if gram.ndim == 3 else np.broadcast_to(gram, (1, *gram.shape))
    slope = np.einsum("oij,jo->io", gram, chosen - steps) if gram.ndim == 3 else gram @ (chosen - steps)
    for _ in range(sweeps):
        moved = _single_moves(chosen, slope, each, fixed)
        if gram.ndim == 3:
            moved += _pair_moves(chosen, slope, each, fixed)
        if not moved:
            break
    return chosen


def _single_moves(chosen: np.ndarray, slope: np.ndarray, gram: np.ndarray, fixed: np.ndarray) -> int:
    moved = 0
    for j in range(len(chosen)):
        best = np.clip(chosen[j] - np.round(slope[j] / gram[:, j, j]), -STEPS, STEPS)
        move = np.where(fixed[j], 0, best - chosen[j])
        if move.any():
            moved += int(np.count_nonzero(move))
            chosen[j] += move
            slope += gram[:, :, j].T * move
    return moved


def _pair_moves(chosen: np.ndarray, slope: np.ndarray, gram: np.ndarray, fixed: np.ndarray) -> int:
    moved = 0
    for j in range(len(chosen)):
        for k in range(len(chosen)):
            gain = 2 * (slope[j] - slope[k]) + gram[:, j, j] + gram[:, k, k] - 2 * gram[:, j, k]
            room = (chosen[j] < STEPS) & (chosen[k] > -STEPS) & ~fixed[j] & ~fixed[k]
            move = ((gain < -1e-12) & room & (j != k)).astype(np.float64)
            if move.any():
                moved += int(move.sum())
                chosen[j] += move
                chosen[k] -= move
                slope += gram[:, :, j].T * move - gram[:, :, k].T * move
    return moved

"""Pruning: channels that really leave, or single weights set to zero.

A channel goes from the convolution that makes it to the pointwise one (or the classifier) that reads it, through a depthwise
layer that loses it too. Its worth is how much its variation moves what reads it: variance × squared weights, as a share of its
layer's; those worth least for the multiplications they cost leave first. What a leaving channel gave on average goes into the
next batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import keras
import numpy as np

from edge_derm.errors import ModelError
from edge_derm.modeling.attention import SpatialAttention
from edge_derm.modeling.compression.chain import POOL, Layer, fold, forward

LEAST = 4  # channels of a layer that always stay


@dataclass(frozen=True)
class Group:
    """Channels that leave together: output of ``source``, of the depthwise layer behind it, input of ``reader``."""

    source: int
    seen: str  # the activation that ``reader`` reads
    reader: int


def groups(chain: Sequence[Layer]) -> list[Group]:
    """Every group of a chain, in order."""
    found = []
    for i, layer in enumerate(chain):
        if layer.kind != "conv":
            continue
        reader = i + 2 if chain[i + 1].kind == "dw" else i + 1
        seen = POOL if chain[reader].kind == "dense" else chain[reader - 1].name
        found.append(Group(i, seen, reader))
    return found


def macs(chain: Sequence[Layer], size_px: int) -> int:
    """Multiply-accumulates of one image."""
    total, side = 0, size_px
    for layer in chain:
        total += _gate_macs(layer, side, layer.kernel.shape[0])
        side = 1 if layer.kind == "dense" else -(-side // layer.stride)
        total += side**2 * layer.kernel.size
    return total


def _gate_macs(layer: Layer, side: int, inputs: int) -> int:
    """Of the attention in front of the classifier on a map of ``side`` and ``inputs`` channels."""
    if layer.gate is None:
        return 0
    squeeze, _, look, _ = layer.gate
    return side**2 * (inputs * squeeze.shape[-1] + look.size)


def statistics(chain: Sequence[Layer], pixels: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each channel of each activation on uint8 [N, S, S, 3]."""
    sums: dict[str, list[Any]] = {}

    def observe(name: str, values: Any) -> Any:
        flat = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
        entry = sums.setdefault(name, [0, 0.0, 0.0])
        entry[0], entry[1], entry[2] = (
            entry[0] + len(flat),
            entry[1] + flat.sum(0),
            entry[2] + (flat**2).sum(0),
        )
        return values

    for i in range(0, len(pixels), 64):
        forward(chain, pixels[i : i + 64].astype(np.float32) / 128 - 1, observe)
    return {name: (s / n, np.maximum(q / n - (s / n) ** 2, 0)) for name, (n, s, q) in sums.items()}


def choose(chain: Sequence[Layer], pixels: np.ndarray, *, share: float) -> dict[str, np.ndarray]:
    """Channels to keep, by name of the layer that makes them, such that MACs fall to ``share`` of what they are.

    Raises:
        ModelError: ``prune-share``: not between 0 and 1, or not reachable with ``LEAST`` channels a layer.
    """
    if not 0 < share < 1:
        raise ModelError(
            f"keep: expected a share of the MACs between 0 and 1, got {share}", code="prune-share"
        )
    size_px = pixels.shape[1]
    found, moments = groups(chain), statistics(chain, pixels)
    worths = [_worth(chain[g.reader], moments[g.seen][1]) for g in found]
    kept = {chain[g.source].name: np.ones(len(w), bool) for g, w in zip(found, worths)}
    wanted = share * macs(chain, size_px)
    while (left := _left(chain, kept, size_px)) > wanted:
        prices = [_price(chain, kept, g, size_px, left) for g in found]
        best, number = None, -1
        for i, (g, worth) in enumerate(zip(found, worths)):
            alive = kept[chain[g.source].name]
            if alive.sum() <= LEAST:
                continue
            ratio = np.where(alive, worth, np.inf).min() / prices[i]
            if best is None or ratio < best:
                best, number = ratio, i
        if best is None:
            raise ModelError(
                f"keep: expected a share of the MACs that {LEAST} channels a layer can reach, got {share}",
                code="prune-share",
            )
        alive = kept[chain[found[number].source].name]
        alive[np.where(alive, worths[number], np.inf).argmin()] = False
    return {name: np.flatnonzero(alive) for name, alive in kept.items()}


def _worth(reader: Layer, variance: np.ndarray) -> np.ndarray:
    kernel = reader.kernel.reshape(len(variance), -1)
    energy = variance * (kernel**2).sum(axis=1)
    return energy / max(float(energy.sum()), 1e-12)


def _left(chain: Sequence[Layer], kept: Mapping[str, np.ndarray], size_px: int) -> int:
    total, side, inputs = 0, size_px, 3
    for layer in chain:
        total += _gate_macs(layer, side, inputs)
        side = 1 if layer.kind == "dense" else -(-side // layer.stride)
        if layer.kind == "dw":
            total += side**2 * 9 * inputs
            continue
        outputs = int(kept[layer.name].sum()) if layer.name in kept else layer.bias.size
        total += (
            side**2 * inputs * outputs * (9 if layer.kernel.ndim == 4 and layer.kernel.shape[0] == 3 else 1)
        )
        inputs = outputs
    return total


def _price(chain: Sequence[Layer], kept: dict[str, np.ndarray], group: Group, size_px: int, left: int) -> int:
    """MACs that one channel less in ``group`` saves."""
    name = chain[group.source].name
    fewer = kept[name].copy()
    fewer[np.flatnonzero(fewer)[0]] = False
    return left - _left(chain, {**kept, name: fewer}, size_px)


def narrow(
    model: keras.Model, kept: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray]
) -> keras.Model:
    """The network with only the kept channels; what the others gave on average stays, in the batch norms and the bias.

    Args:
        kept: from ``choose``.
        means: of each channel of each activation, by name as in ``statistics``.
    """

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name in kept:
            config["filters"] = len(kept[layer.name])
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    inputs: np.ndarray = np.arange(3)
    seen = ""
    for layer in model.layers:
        if not layer.weights:
            continue
        target, values = copy.get_layer(layer.name), layer.get_weights()
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            target.set_weights([values[0][:, :, inputs]])
            seen, outputs, moved = layer.name, inputs, None
        elif layer.name in kept:
            outputs = kept[layer.name]
            moved = _given(values[0], inputs, means.get(seen))
            target.set_weights([values[0][:, :, inputs][..., outputs]])
            inputs, seen = outputs, layer.name
        elif isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = (v[outputs] for v in values)
            target.set_weights([gamma, beta, mean - (0 if moved is None else moved[outputs]), variance])
        elif isinstance(layer, SpatialAttention):
            given = _given(values[0], inputs, means[seen])
            target.set_weights(
                [values[0][:, :, inputs], values[1] + (0 if given is None else given), *values[2:]]
            )
        elif isinstance(layer, keras.layers.Dense):
            given = _given(values[0], inputs, means[POOL])
            target.set_weights([values[0][inputs], values[1] + (0 if given is None else given)])
    return copy


def _given(kernel: np.ndarray, inputs: np.ndarray, means: np.ndarray | None) -> np.ndarray | None:
    """What the channels that leave gave each output on average."""
    if means is None or kernel.shape[:-2] not in ((1, 1), ()):
        return None
    gone = np.setdiff1d(np.arange(kernel.shape[-2]), inputs)
    return (means[gone] @ kernel.reshape(kernel.shape[-2:])[gone]).astype(np.float32)


def prune_channels(model: keras.Model, pixels: np.ndarray, *, share: float) -> keras.Model:
    """``model`` with its MACs brought to ``share`` by taking channels out; ``pixels`` uint8 [N, S, S, 3] say which."""
    chain = fold(model)
    means = {name: mean for name, (mean, _) in statistics(chain, pixels).items()}
    return narrow(model, choose(chain, pixels, share=share), means)


def masks(model: keras.Model, *, sparsity: float) -> dict[str, np.ndarray]:
    """0/1 by layer name: the smallest ``sparsity`` of each pointwise kernel's weights are 0.

    Raises:
        ModelError: ``prune-sparsity``.
    """
    if not 0 < sparsity < 1:
        raise ModelError(f"sparsity: expected between 0 and 1, got {sparsity}", code="prune-sparsity")
    found = {}
    for layer in model.layers:
        if type(layer) is keras.layers.Conv2D and layer.kernel_size == (1, 1):
            kernel = np.abs(layer.get_weights()[0])
            order = np.argsort(kernel, axis=None, kind="stable")[: round(sparsity * kernel.size)]
            mask = np.ones(kernel.size, np.float32)
            mask[order] = 0
            found[layer.name] = mask.reshape(kernel.shape)
    return found

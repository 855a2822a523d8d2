"""Channels that never change are put to use: each becomes a copy of a channel whose int8 rounding the decision feels most.

Narrow networks from ImageNet weights have dead channels in their first layers, where rounding of activations costs most
(measured: the first two tensors make most of all activation error). A copy is offset by half a step of the activation scale
and the reader takes half of each, so the pair is rounded at twice as fine a step. Neither size nor multiplications change. Ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Sequence

import numpy as np

from edge_derm.modeling.compression.chain import CLIP, Layer, forward

STEP = CLIP / 255  # of an activation behind ReLU6
STAGES = 3  # from the input on; later tensors hardly matter
STILL = 1e-3  # a channel spanning less than this is constant
PROBED_ON = 48  # images that say what a channel's rounding does to the logits


def use_spares(
    chain: Sequence[Layer], ranges: dict[str, tuple[np.ndarray, np.ndarray]], pixels: np.ndarray
) -> tuple[Layer, ...]:
    """The same function, its constant channels replaced by offset copies.

    Args:
        ranges: least and greatest of each channel (``equalise.channel_ranges`` of this chain).
        pixels: uint8 [N, S, S, 3].
    """
    layers = tuple(chain)
    for place in _stages(layers)[:STAGES]:
        low, high = ranges[layers[place + 1].name]
        spares = np.flatnonzero(high - low < STILL)
        live = np.flatnonzero(high - low >= STILL)
        if not len(spares) or not len(live):
            continue
        felt = _felt(layers, place, live, pixels[:PROBED_ON])
        for spare, channel in zip(spares, live[np.argsort(-felt)]):
            constant = float(low[spare] + high[spare]) / 2
            layers = copy_channel(layers, place, int(channel), int(spare), constant)
    return layers


def _stages(chain: Sequence[Layer]) -> list[int]:
    """Where a convolution, a depthwise one and a pointwise one follow each other."""
    kinds = [layer.kind for layer in chain]
    return [
        i
        for i in range(len(chain) - 2)
        if kinds[i : i + 3] == ["conv", "dw", "conv"] and chain[i + 2].kernel.shape[0] == 1
    ]


def _felt(chain: Sequence[Layer], place: int, channels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Root mean square change of the logits when one channel of the two activations is rounded, for each of ``channels``."""
    x = pixels.astype(np.float32) / 128 - 1
    names = {chain[place].name, chain[place + 1].name}
    exact = np.asarray(forward(chain, x))

    def change(channel: int) -> float:
        def observe(name: str, values: Any) -> Any:
            if name not in names:
                return values
            rounded = np.array(values)
            rounded[..., channel] = np.round(rounded[..., channel] / STEP) * STEP
            return rounded

        return float(np.square(np.asarray(forward(chain, x, observe)) - exact).mean() ** 0.5)

    return np.array([change(int(channel)) for channel in channels])


def copy_channel(
    chain: Sequence[Layer], place: int, channel: int, spare: int, constant: float
) -> tuple[Layer, ...]:
    """``channel`` of the stage at ``place`` also computed, half a step higher, in ``spare``, which gave ``constant`` before."""
    half = STEP / 2
    maker, depthwise, reader = chain[place : place + 3]
    first, second, third = maker.kernel.copy(), depthwise.kernel.copy(), reader.kernel.copy()
    biases = [maker.bias.copy(), depthwise.bias.copy(), reader.bias + constant * third[0, 0, spare]]
    first[..., spare] = first[..., channel]
    biases[0][spare] = biases[0][channel] + half
    second[:, :, spare] = second[:, :, channel]
    biases[1][spare] = biases[1][channel] - half * second[:, :, channel].sum() + half
    third[0, 0, channel] /= 2
    third[0, 0, spare] = third[0, 0, channel]
    biases[2] = biases[2] - half * third[0, 0, spare]
    kernels = (first, second, third)
    changed = [
        replace(layer, kernel=kernel, bias=bias.astype(np.float32))
        for layer, kernel, bias in zip((maker, depthwise, reader), kernels, biases)
    ]
    return (*chain[:place], *changed, *chain[place + 3 :])

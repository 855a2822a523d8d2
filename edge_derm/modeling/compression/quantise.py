"""Everything between a trained network and its int8 conversion: equalised, dead channels used, logits centred,
weights rounded by reconstruction, ranges fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from edge_derm.modeling.compression import equalise as equalising
from edge_derm.modeling.compression.chain import POOL, Layer, fold, forward, unfold
from edge_derm.modeling.compression.reconstruct import quantiser, ranges_of, reconstruct
from edge_derm.modeling.compression.sensitivity import sensitivity as costs
from edge_derm.modeling.compression.spare import use_spares

FELT = 3  # layers whose rounded activations make most of all error: the rarest values there are cut off, for finer steps
TRIED_ON = 128  # images that say what each rounding costs
ROUNDED_ON = 256  # images that weights are rounded on; ranges are taken from all that are given
ENDS = np.linspace(0.25, 1, 16)  # shares of the least and the greatest logit where their int8 range may end


@dataclass(frozen=True)
class Prepared:
    """A network ready for conversion: ``model`` with kernels on their int8 grid, ranges by the layer whose output they are of."""

    model: keras.Model
    chain: tuple[Layer, ...]
    ranges: Mapping[str, tuple[float, float]]
    sensitivity: Sequence[Mapping[str, Any]] = ()  # what each rounding costs alone, where that was asked for


def prepare(model: keras.Model, pixels: np.ndarray, *, sensitivity: bool = False) -> Prepared:
    """The network for the int8 recipe.

    Args:
        model: of the MobileNet family (``chain.fold``).
        pixels: uint8 [N, S, S, 3], training images.
        sensitivity: also measure what each rounding costs alone.

    Raises:
        ModelError: ``chain-structure``.
    """
    levelled, ranges = level(fold(model), pixels)
    chain = reconstruct(levelled, pixels[:ROUNDED_ON], quantiser(ranges))
    table = costs(levelled, ranges, pixels[:TRIED_ON]) if sensitivity else ()
    return Prepared(unfold(model, chain), chain, by_output(model, ranges), table)


def prepare_weights(model: keras.Model, pixels: np.ndarray, *, least: int = 0) -> keras.Model:
    """The network for recipes whose activations are finer than int8: only the rounding of weights is chosen.

    Args:
        least: kernels with fewer weights stay as they are.
    """
    exact = fold(model)
    return unfold(model, reconstruct(exact, pixels[:ROUNDED_ON], lambda name, values: values, least=least))


def level(
    chain: Sequence[Layer], pixels: np.ndarray
) -> tuple[tuple[Layer, ...], dict[str, tuple[float, float]]]:
    """The same function with channels equalised, dead ones used and logits centred, and the range of every activation in it."""
    usual = equalising.usual_ranges(chain[: min(FELT, len(chain) - 1)], pixels)
    chain = equalising.equalise(chain, {**equalising.channel_ranges(chain, pixels), **usual})
    chain = use_spares(chain, equalising.channel_ranges(chain, pixels), pixels)
    chain = equalising.centre_logits(chain, pooled(chain, pixels))
    ranges = ranges_of(equalising.channel_ranges(chain, pixels))
    scores = pooled(chain, pixels) @ chain[-1].kernel + chain[-1].bias
    return chain, {**ranges, chain[-1].name: logit_range(scores)}


def logit_range(scores: np.ndarray) -> tuple[float, float]:
    """The int8 range of logits [N, C] whose probabilities, rounded and cut off, err least in the mean square.

    Rounding makes near decisions ties, half of them lost, so every step counts: of a range that holds all logits of a trained
    network, most is spent on classes that have no share in the decision and on images that are decided anyway.
    """
    exact = np.asarray(ops.softmax(scores))
    lows, highs = min(0.0, float(scores.min())) * ENDS, max(0.0, float(scores.max())) * ENDS

    def error(pair: tuple[float, float]) -> float:
        rounded = quantiser({"": pair})("", scores)
        return float(np.square(np.asarray(ops.softmax(rounded)) - exact).mean())

    return min(((float(low), float(high)) for low in lows for high in highs), key=error)


def pooled(chain: Sequence[Layer], pixels: np.ndarray) -> np.ndarray:
    """Input of the classifier, float32 [N, C]."""
    found: list[np.ndarray] = []

    def observe(name: str, values: Any) -> Any:
        if name == POOL:
            found.append(np.asarray(values))
        return values

    for i in range(0, len(pixels), 64):
        forward(chain, pixels[i : i + 64].astype(np.float32) / 128 - 1, observe)
    return np.concatenate(found)


def by_output(
    model: keras.Model, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Ranges named by the Keras layer that gives the activation: the ReLU behind a convolution, the pooling, the classifier."""
    named, last = {}, ""
    for layer in model.layers:
        if layer.name in ranges:
            last = layer.name
        if isinstance(layer, keras.layers.GlobalAveragePooling2D):
            named[layer.name] = ranges[POOL]
        elif isinstance(layer, (keras.layers.ReLU, keras.layers.Dense)):
            named[layer.name] = ranges[last]
    return named

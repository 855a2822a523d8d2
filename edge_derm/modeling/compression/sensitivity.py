"""What each rounding of an int8 network costs alone: one kernel, or one activation, rounded and everything else in float."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Sequence

import numpy as np
import tensorflow as tf

from edge_derm.modeling.compression.chain import Layer, forward
from edge_derm.modeling.compression.qat import Ranges
from edge_derm.modeling.compression.reconstruct import round_nearest


def sensitivity(chain: Sequence[Layer], ranges: Ranges, pixels: np.ndarray) -> list[dict[str, Any]]:
    """A row for each kernel (rounded to nearest) and each activation of ``chain``, in the order of the network.

    Args:
        ranges: of every activation, by the chain's names (``quantise.level``).
        pixels: uint8 [N, S, S, 3].

    Returns:
        ``layer``; ``what``: weights or activation; ``agreement``: share of the images decided as in float; ``margin_change``:
        mean change of the difference between the two greatest logits.
    """
    rounded = [round_nearest(layer) for layer in chain]
    what = [("weights", layer.name) for layer in chain] + [("activation", name) for name in ranges]
    place = {pair: i for i, pair in enumerate(what)}

    @tf.function  # traced once: which rounding is on is a tensor
    def run(x: Any, on: Any) -> Any:
        layers = [
            replace(a, kernel=a.kernel + on[place["weights", a.name]] * (b.kernel - a.kernel))
            for a, b in zip(chain, rounded)
        ]

        def observe(name: str, values: Any) -> Any:
            low, high = ranges[name]
            steps = tf.quantization.fake_quant_with_min_max_args(values, low, high)
            return values + on[place["activation", name]] * (steps - values)

        return forward(layers, x, observe)

    x = tf.constant(pixels.astype(np.float32) / 128 - 1)
    exact = run(x, tf.zeros(len(what))).numpy()
    return [
        {"layer": name, "what": kind, **_cost(exact, run(x, tf.one_hot(i, len(what))).numpy())}
        for i, (kind, name) in enumerate(what)
    ]


def _cost(exact: np.ndarray, found: np.ndarray) -> dict[str, float]:
    rows, best = np.arange(len(exact)), np.argsort(exact, axis=1)[:, -2:]
    margins = [scores[rows, best[:, 1]] - scores[rows, best[:, 0]] for scores in (exact, found)]
    return {
        "agreement": float((exact.argmax(axis=1) == found.argmax(axis=1)).mean()),
        "margin_change": float(np.abs(margins[1] - margins[0]).mean()),
    }

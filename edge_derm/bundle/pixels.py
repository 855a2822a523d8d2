"""The model that a runtime loads: one that takes pixels as they are stored, and gives the same scores to the bit.

A float file asks for four bytes a channel, (pixel − 128) / 128: the runtime would write four times the pixels' bytes, into memory
that is not in the caches, for the model to read them again. A DEQUANTIZE in front of it does that inside the engine, from
pixels that are only copied (147 kB less to write at 128 × 128). A uint8 file asks an operator to flip a bit, which whoever
writes the pixels does in passing.
"""

from __future__ import annotations

import numpy as np

from edge_derm.bundle.graft import add_dequantize
from edge_derm.bundle.manifest import Input
from edge_derm.bundle.structure import check_model
from edge_derm.bundle.trim import trim
from edge_derm.errors import BundleError, ModelError
from firmware_bridge.graph import Graph

_TOP_BIT = 128


def at_pixels(model: bytes, shape: Input) -> bytes:
    """``model`` with an integer input, where that gives the same scores to the bit; any other model comes back as it is.

    Args:
        model: a .tflite that passed ``check_model``. shape: how the bundle says its input is normalised.
    """
    return with_pixels(model, shape) if shape.dtype == "float32" else without_sign_flip(model)


def with_pixels(model: bytes, shape: Input) -> bytes:
    """``model`` with a uint8 input in front of its float one, where scale and zero point make exactly the numbers it asks for."""
    steps, graph = _steps(shape), check_model(model)
    if steps is None or len(graph.inputs) != 1 or graph.tensor(graph.inputs[0]).dtype != "float32":
        return model
    try:
        made = add_dequantize(model, *steps)
        return made if _is_behind(graph, check_model(made)) else model
    except BundleError:
        return model


def _steps(shape: Input) -> tuple[float, int] | None:
    """Scale and zero point of (pixel − mean) / std."""
    if (
        len({*shape.mean}) != 1
        or len({*shape.std}) != 1
        or not 0 <= shape.mean[0] <= 255
        or shape.mean[0] % 1
    ):
        return None
    scale, zero_point = np.float32(1 / shape.std[0]), int(shape.mean[0])
    steps = np.arange(256) - zero_point
    exact = np.array_equal(steps.astype(np.float32) * scale, (steps / shape.std[0]).astype(np.float32))
    return (float(scale), zero_point) if exact and scale > 0 else None


def _is_behind(old: Graph, new: Graph) -> bool:
    """Whether ``new`` is ``old`` behind a DEQUANTIZE."""
    names = ["DEQUANTIZE", *(op.name for op in old.ops)]
    edges = [(new.inputs, old.inputs), *((op.inputs, op.outputs) for op in old.ops)]
    return (
        [op.name for op in new.ops] == names
        and [(op.inputs, op.outputs) for op in new.ops] == edges
        and new.outputs == old.outputs
    )


def without_sign_flip(model: bytes) -> bytes:
    """``model`` with an int8 input where a first QUANTIZE only turned uint8 pixels into int8 (stored − 128, the same scale).

    The values behind the edge are the same to the bit. LiteRT takes 40 to 50 µs for that operator on 128 × 128 pixels, a sixth of a
    small network; whoever writes the pixels flips a bit in two. Any other model comes back as it is.

    Args:
        model: a .tflite that passed ``check_model``.
    """
    graph = check_model(model)
    if not _only_flips(graph):
        return model
    try:
        return trim(model, graph, 1, len(graph.ops) - 1, inputs=graph.ops[0].outputs, outputs=graph.outputs)
    except ModelError:
        return model


def _only_flips(graph: Graph) -> bool:
    if len(graph.inputs) != 1 or len(graph.ops) < 2 or graph.ops[0].name != "QUANTIZE":
        return False
    edge, inner = graph.tensor(graph.inputs[0]), graph.tensor(graph.ops[0].outputs[0])
    read_again = any(edge.index in op.inputs for op in graph.ops[1:])
    if (
        read_again
        or {edge.index, inner.index} & set(graph.outputs)
        or (edge.dtype, inner.dtype) != ("uint8", "int8")
    ):
        return False
    outer, own = edge.quantization, inner.quantization
    if outer is None or own is None or not len(outer.scale) == len(own.scale) == 1:
        return False
    return bool(outer.scale[0] == own.scale[0] and outer.zero_point[0] - own.zero_point[0] == _TOP_BIT)

"""What is inside a model, in figures and warnings: for ``inspect`` and for the check of an exported file.

Multiply-accumulates are those of one run as the shapes are stored, counted at every stored position,
padding included: convolution = output elements · kernel height · kernel width · input channels of the
filter; depthwise the same with one input channel; fully connected = output elements · input features.
Dilation changes none of it. Parameters are the values of weights and biases, each constant once; constants
that say a shape, an axis or a padding are not parameters.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Mapping

from firmware_bridge.findings import Finding, arithmetic, find
from firmware_bridge.graph import Graph, Op, Tensor

_BIASED = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
_INDEX_TYPES = frozenset({"int32", "int64", "bool", "string", "resource", "variant"})


@dataclass(frozen=True)
class TensorRow:
    """One tensor in plain values; ``scale`` and ``zero_point`` are None unless it has exactly one of each."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    scales: int  # 0: not quantised, 1: per tensor, more: per channel
    constant: bool
    bytes: int


@dataclass(frozen=True)
class Summary:
    """The figures of one model; ``dataclasses.asdict`` gives a JSON-ready dictionary."""

    operators: Mapping[
        str, int
    ]  # builtin name (custom operators as CUSTOM:name) -> how many, most frequent first
    macs: int
    parameters: int
    arithmetic: str  # float32, float16, dynamic, int8, uint8, int16x8, mixed or none
    dilated_depthwise: int
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    tensors: tuple[TensorRow, ...]
    metadata: Mapping[str, int]  # name of each metadata buffer -> bytes
    warnings: tuple[Finding, ...]


def summarize(graph: Graph) -> Summary:
    """Return the figures and warnings of ``graph``; raises nothing on a graph from ``tflite.parse``."""
    return Summary(
        operators=count_operators(graph),
        macs=count_macs(graph),
        parameters=count_parameters(graph),
        arithmetic=arithmetic(graph),
        dilated_depthwise=count_dilated_depthwise(graph),
        inputs=tuple(_row(graph.tensor(index)) for index in graph.inputs),
        outputs=tuple(_row(graph.tensor(index)) for index in graph.outputs),
        tensors=tuple(_row(tensor) for tensor in graph.tensors),
        metadata={name: len(value) for name, value in graph.metadata.items()},
        warnings=tuple(find(graph)),
    )


def count_operators(graph: Graph) -> dict[str, int]:
    """Return how often each operator occurs, most frequent first."""
    names = (f"CUSTOM:{op.options['custom_code']}" if op.name == "CUSTOM" else op.name for op in graph.ops)
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def count_dilated_depthwise(graph: Graph) -> int:
    """Return how many depthwise convolutions are stored as one operator with a dilation factor above 1."""
    return sum(
        op.name == "DEPTHWISE_CONV_2D"
        and max(op.options["dilation_h_factor"], op.options["dilation_w_factor"]) > 1
        for op in graph.ops
    )


def count_macs(graph: Graph) -> int:
    """Return the multiply-accumulates of one run (definition at the top of this module)."""
    return sum(operator_macs(graph, op) for op in graph.ops)


def count_parameters(graph: Graph) -> int:
    """Return the number of stored weights and biases (definition at the top of this module)."""
    biases = {
        op.inputs[place] for op in graph.ops for place in [_BIASED.get(op.name, 99)] if place < len(op.inputs)
    }
    return sum(
        tensor.elements
        for tensor in graph.tensors
        if tensor.data is not None and (tensor.dtype not in _INDEX_TYPES or tensor.index in biases)
    )


def operator_macs(graph: Graph, op: Op) -> int:
    """Return the multiply-accumulates of one operator in one run."""
    if op.name not in (*_BIASED, "BATCH_MATMUL"):
        return 0
    weights = graph.tensor(op.inputs[1]).shape
    if op.name == "TRANSPOSE_CONV":
        return graph.tensor(op.inputs[2]).elements * math.prod(weights[:-1])
    per_output = {"CONV_2D": weights[1:], "DEPTHWISE_CONV_2D": weights[1:3]}.get(op.name, weights[-1:])
    if op.name == "BATCH_MATMUL" and len(weights) > 1 and not op.options["adj_y"]:
        per_output = weights[-2:-1]
    return graph.tensor(op.outputs[0]).elements * math.prod(per_output)


def _row(tensor: Tensor) -> TensorRow:
    quantization = tensor.quantization
    single = quantization is not None and not quantization.per_channel
    return TensorRow(
        index=tensor.index,
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        scale=float(quantization.scale[0]) if quantization is not None and single else None,
        zero_point=int(quantization.zero_point[0]) if quantization is not None and single else None,
        scales=0 if quantization is None else int(quantization.scale.size),
        constant=tensor.data is not None,
        bytes=tensor.bytes,
    )

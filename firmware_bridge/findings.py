"""What a person should know before shipping a model: each finding is a stable code and one line.

Codes: ``float-operator``, ``space-to-batch``, ``unfolded-batch-norm``, ``per-tensor-weights``,
``dynamic-range``, ``mixed-arithmetic``, ``input-scale``, ``free-shape``, ``custom-operator``,
``control-flow``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from firmware_bridge.graph import Graph, Op, Tensor

COMPUTING = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})
"""Operators that multiply and accumulate."""

_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
_INTEGER = frozenset({"int8", "uint8", "int16x8"})
_FLOATS = frozenset({"float32", "float16", "bfloat16", "float64"})
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_CONTROL = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE"})


@dataclass(frozen=True)
class Finding:
    """One warning: ``code`` for scripts and tests, ``message`` for a person."""

    code: str
    message: str


def find(graph: Graph) -> Iterator[Finding]:
    """Yield the findings about ``graph``, most serious first."""
    for look in (_float_operators, _space_to_batch, _unfolded, _arithmetic, _per_tensor, _input_scale, _rest):
        yield from look(graph)


def arithmetic(graph: Graph) -> str:
    """Name what the convolutions and matrix products compute in.

    ``float32``, ``float16`` (float16 weights), ``dynamic`` (integer weights, float activations), ``int8``,
    ``uint8``, ``int16x8``; ``mixed`` if they differ, ``none`` if there are none.
    """
    makers = _makers(graph)
    kinds = {_kind(graph, op, makers) for op in graph.ops if op.name in COMPUTING}
    if kinds == {"float32", "float16"}:
        return "float16"
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "none"


def _makers(graph: Graph) -> dict[int, Op]:
    return {index: op for op in graph.ops for index in op.outputs}


def _kind(graph: Graph, op: Op, makers: dict[int, Op]) -> str:
    at = {"TRANSPOSE_CONV": 2}.get(op.name, 0)
    activation, weights = graph.tensor(op.inputs[at]).dtype, graph.tensor(op.inputs[1])
    maker = makers.get(weights.index)
    stored = graph.tensor(maker.inputs[0]) if maker is not None and maker.name == "DEQUANTIZE" else weights
    if activation in _FLOATS:
        if stored.dtype in _FLOATS:
            return stored.dtype if stored.data is not None else activation
        return "dynamic"
    return "int16x8" if activation == "int16" else activation


def _listed(ops: list[Op]) -> str:
    names = [f"{op.name} (operator {op.index})" for op in ops[:5]]
    return ", ".join(names) + (f" and {len(ops) - 5} more" if len(ops) > 5 else "")


def _float_operators(graph: Graph) -> Iterator[Finding]:
    kind = arithmetic(graph)
    if kind not in (*_INTEGER, "mixed"):
        return
    left = [op for op in graph.ops if op.name not in _CONVERSIONS and _touches_float(graph, op)]
    if left:
        yield Finding(
            "float-operator",
            f"{len(left)} float operators are left in an integer model: {_listed(left)}; export again with a "
            "calibration set and only int8 operators allowed",
        )


def _touches_float(graph: Graph, op: Op) -> bool:
    return any(index >= 0 and graph.tensor(index).dtype in _FLOATS for index in (*op.inputs, *op.outputs))


def _space_to_batch(graph: Graph) -> Iterator[Finding]:
    found = [op for op in graph.ops if op.name in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")]
    if found:
        yield Finding(
            "space-to-batch",
            f"dilation is not fused: {_listed(found)}; the convolution between them should be one operator"
            " with a dilation factor, which is faster and lets the batch norm fold",
        )


def _unfolded(graph: Graph) -> Iterator[Finding]:
    makers = _makers(graph)
    found = [
        op for op in graph.ops if op.name in ("MUL", "ADD", "SUB") and _scales_convolution(graph, op, makers)
    ]
    if found:
        yield Finding(
            "unfolded-batch-norm",
            f"a batch norm is not folded into its convolution: {_listed(found)}; int8 rounds once more there"
            " and loses accuracy",
        )


def _scales_convolution(graph: Graph, op: Op, makers: dict[int, Op]) -> bool:
    constant = [graph.tensor(index).data is not None for index in op.inputs]
    if constant.count(True) != 1:
        return False
    maker = makers.get(op.inputs[constant.index(False)])
    while maker is not None and maker.name in ("BATCH_TO_SPACE_ND", "DEQUANTIZE", "QUANTIZE", "MUL"):
        maker = makers.get(next((i for i in maker.inputs if graph.tensor(i).data is None), -1))
    return maker is not None and maker.name in _CONVOLUTIONS


def _arithmetic(graph: Graph) -> Iterator[Finding]:
    kind = arithmetic(graph)
    if kind == "dynamic":
        yield Finding(
            "dynamic-range",
            "weights are integers but activations are float: smaller, not an integer model; export with the"
            " int8 recipe for microcontrollers",
        )
    if kind == "mixed":
        yield Finding("mixed-arithmetic", "convolutions and matrix products compute in different types")


def _per_tensor(graph: Graph) -> Iterator[Finding]:
    found = [op for op in graph.ops if op.name in _CONVOLUTIONS and _one_scale(graph, op)]
    if found:
        yield Finding(
            "per-tensor-weights",
            f"{len(found)} convolutions have one scale for all channels: {_listed(found)}; per-channel scales"
            " lose less accuracy, above all in depthwise layers",
        )


def _one_scale(graph: Graph, op: Op) -> bool:
    weights = graph.tensor(op.inputs[1])
    channels = weights.shape[-1 if op.name == "DEPTHWISE_CONV_2D" else 0] if weights.shape else 1
    return weights.quantization is not None and weights.quantization.scale.size == 1 and channels > 1


def _input_scale(graph: Graph) -> Iterator[Finding]:
    for index in graph.inputs:
        tensor = _stored_input(graph, index)
        if len(tensor.shape) != 4 or tensor.shape[3] not in (1, 3) or tensor.quantization is None:
            continue
        scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])
        direct = {"uint8": (1 / 128, 128), "int8": (1 / 128, 0)}.get(tensor.dtype)
        if direct is not None and (scale, zero) != direct:
            yield Finding(
                "input-scale",
                f"input {tensor.name!r} has scale {scale:.9g} and zero point {zero}, expected {direct[0]:.9g}"
                f" and {direct[1]}: a stored value is not the pixel itself, pixels must be re-quantised",
            )


def _stored_input(graph: Graph, index: int) -> Tensor:
    """Return the tensor that holds the quantised input: behind a QUANTIZE where the edge is float."""
    readers = [op for op in graph.ops if index in op.inputs]
    if graph.tensor(index).quantization is None and len(readers) == 1 and readers[0].name == "QUANTIZE":
        return graph.tensor(readers[0].outputs[0])
    return graph.tensor(index)


def _rest(graph: Graph) -> Iterator[Finding]:
    free = [graph.tensor(index) for index in graph.inputs if -1 in graph.tensor(index).signature[1:]]
    if free:
        yield Finding(
            "free-shape", f"the size of input {free[0].name!r} is free; memory depends on the caller"
        )
    custom = sorted({op.options["custom_code"] for op in graph.ops if op.name == "CUSTOM"})
    if custom:
        yield Finding("custom-operator", f"custom operators need their own runtime: {', '.join(custom)}")
    control = [op for op in graph.ops if op.name in _CONTROL]
    if control:
        yield Finding(
            "control-flow", f"other subgraphs are called and not described here: {_listed(control)}"
        )

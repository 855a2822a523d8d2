"""Can a kernel compute with the scales that a quantised operator is given?

Runtimes divide by scales and turn them into fixed-point multipliers; LiteRT and TensorFlow Lite Micro end
the process when a scale is not there or a softmax multiplier is not above 1. FormatError codes:
``quantization-missing``, ``softmax-scale-degenerate``.
"""

from __future__ import annotations

from firmware_bridge.flatbuffer import malformed
from firmware_bridge.graph import Graph, Op

_STORED = frozenset({"int8", "uint8", "int16"})
_SCALED = frozenset(
    "CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV FULLY_CONNECTED BATCH_MATMUL ADD SUB MUL DIV MEAN SUM"
    " AVERAGE_POOL_2D L2_POOL_2D SOFTMAX LOG_SOFTMAX LOGISTIC TANH RELU RELU6 RELU_N1_TO_1 LEAKY_RELU PRELU"
    " HARD_SWISH GELU EXP L2_NORMALIZATION CONCATENATION QUANTIZE DEQUANTIZE RESIZE_BILINEAR".split()
)
"""Operators whose quantised form uses the scales of its tensors."""

# gemmlowp's softmax works on differences with 5 integer bits in 31: the multiplier is beta · scale · 2^(31 − 5).
_SOFTMAX_FACTOR = 2.0**26


def check_scales(graph: Graph, where: str) -> None:
    """Raise FormatError unless quantised operators have the scales that they compute with."""
    for op in graph.ops:
        place = f"{where}, operator {op.index} ({op.name})"
        if op.name in _SCALED:
            _check_presence(graph, op, place)
        if op.name == "SOFTMAX":
            _check_softmax(graph, op, place)


def _check_presence(graph: Graph, op: Op, place: str) -> None:
    for index in (*op.inputs, *op.outputs):
        if index < 0:
            continue
        tensor = graph.tensor(index)
        if tensor.dtype in _STORED and tensor.quantization is None:
            got = f"{tensor.dtype} tensor {index} {tensor.name[:80]!r} without"
            raise malformed(
                "quantization-missing", place, expected="a scale for each quantised tensor", got=got
            )


def _check_softmax(graph: Graph, op: Op, place: str) -> None:
    scale = graph.tensor(op.inputs[0]).quantization
    step = op.options["beta"] * (1.0 if scale is None else float(scale.scale[0]))
    if not step * _SOFTMAX_FACTOR > 1:
        raise malformed(
            "softmax-scale-degenerate",
            place,
            expected=f"beta · input scale above {1 / _SOFTMAX_FACTOR:.3g}",
            got=step,
            then="all classes would be equal; calibrate the model on images that excite it",
        )

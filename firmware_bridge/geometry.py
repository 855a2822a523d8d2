"""Does each operator's stored output shape follow from its inputs? Whoever trusts a shape writes past a
buffer if not.

Convolutions, pooling, fully connected layers, element-wise operators, reshapes, concatenation, padding and
means are checked, with the sizes TensorFlow defines: SAME gives ceil(in / stride), VALID ceil((in − (kernel
− 1)·dilation) / stride). Operators whose tensors have a free dimension other than the batch are left alone:
their shapes are set at run time. One FormatError code: ``shape-mismatch``.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping

import numpy as np

from firmware_bridge.flatbuffer import malformed
from firmware_bridge.graph import Graph, Op, Tensor

Shape = tuple[int, ...]


class _Mismatch(Exception):
    """Expected and got, in words; turned into a FormatError where the operator's place is known."""


def check_geometry(graph: Graph, where: str) -> None:
    """Raise FormatError ``shape-mismatch`` for the first output that its operator cannot give."""
    for op in graph.ops:
        rule = _RULES.get(op.name)
        if rule is None or any(_free(graph, index) for index in (*op.inputs, *op.outputs)):
            continue
        inputs = [graph.tensor(index) if index >= 0 else None for index in op.inputs]
        try:
            rule(op, inputs, graph.tensor(op.outputs[0]).shape)
        except _Mismatch as mismatch:
            expected, got = mismatch.args
            place = f"{where}, operator {op.index} ({op.name})"
            raise malformed("shape-mismatch", place, expected=expected, got=got) from None


def _free(graph: Graph, index: int) -> bool:
    return index >= 0 and -1 in graph.tensor(index).signature[1:]


def _require(holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise _Mismatch(expected, got)


def _require_output(expected: Shape, output: Shape) -> None:
    _require(expected == output, f"an output of {list(expected)}", list(output))


def _require_rank(rank: int, *shapes: Shape) -> None:
    for shape in shapes:
        _require(len(shape) == rank, f"{rank} dimensions", list(shape))


def _require_bias(inputs: list, place: int, channels: int) -> None:
    bias = inputs[place] if len(inputs) > place else None
    _require(bias is None or bias.elements == channels, f"{channels} biases", bias and list(bias.shape))


def _windows(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    extent = size if padding == "SAME" else size - (kernel - 1) * dilation
    return max(-(-extent // stride), 0)


def _slide(shape: Shape, kernel: Shape, options: Mapping[str, Any]) -> Shape:
    dilation = (options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1))
    stride = (options["stride_h"], options["stride_w"])
    return tuple(
        _windows(shape[1 + i], kernel[i], stride[i], dilation[i], options["padding"]) for i in range(2)
    )


def _convolution(op: Op, inputs: list, output: Shape) -> None:
    shape, weights = inputs[0].shape, inputs[1].shape
    _require_rank(4, shape, weights, output)
    channels = weights[0]
    _require(
        weights[3] > 0 and shape[3] % weights[3] == 0 and min(weights) > 0,
        f"a filter for {shape[3]} input channels",
        list(weights),
    )
    _require_bias(inputs, 2, channels)
    _require_output((shape[0], *_slide(shape, weights[1:3], op.options), channels), output)


def _depthwise(op: Op, inputs: list, output: Shape) -> None:
    shape, weights = inputs[0].shape, inputs[1].shape
    _require_rank(4, shape, weights, output)
    multiplier = op.options["depth_multiplier"]
    _require(
        min(weights) > 0 and weights[0] == 1 and multiplier > 0 and weights[3] == shape[3] * multiplier,
        f"a filter [1, height, width, {shape[3]} · {multiplier}]",
        list(weights),
    )
    _require_bias(inputs, 2, weights[3])
    _require_output((shape[0], *_slide(shape, weights[1:3], op.options), weights[3]), output)


def _pool(op: Op, inputs: list, output: Shape) -> None:
    shape = inputs[0].shape
    _require_rank(4, shape, output)
    kernel = (op.options["filter_height"], op.options["filter_width"])
    _require_output((shape[0], *_slide(shape, kernel, op.options), shape[3]), output)


def _fully_connected(op: Op, inputs: list, output: Shape) -> None:
    weights = inputs[1].shape
    _require_rank(2, weights)
    units, features = weights
    _require(
        features > 0 and inputs[0].elements % features == 0,
        f"inputs in rows of {features}",
        list(inputs[0].shape),
    )
    _require_bias(inputs, 2, units)
    rows = inputs[0].elements // features
    _require(
        bool(output) and output[-1] == units and math.prod(output) == rows * units,
        f"{rows} rows of {units}",
        list(output),
    )


def _broadcast(op: Op, inputs: list, output: Shape) -> None:
    try:
        expected = np.broadcast_shapes(*(tensor.shape for tensor in inputs))
    except ValueError:
        raise _Mismatch("shapes that broadcast", [list(tensor.shape) for tensor in inputs]) from None
    _require_output(expected, output)


def _same_shape(op: Op, inputs: list, output: Shape) -> None:
    _require_output(inputs[0].shape, output)


def _same_elements(op: Op, inputs: list, output: Shape) -> None:
    _require(
        inputs[0].elements == math.prod(output), f"an output of {inputs[0].elements} elements", list(output)
    )


def _concatenation(op: Op, inputs: list, output: Shape) -> None:
    shapes = [tensor.shape if tensor is not None else () for tensor in inputs]
    rank, axis = len(output), op.options["axis"]
    _require(-rank <= axis < rank, f"an axis of {list(output)}", axis)
    _require_rank(rank, *shapes)
    axis %= rank
    joined = sum(shape[axis] for shape in shapes)
    for shape in shapes:
        _require_output((*shape[:axis], joined, *shape[axis + 1 :]), output)


def _pad(op: Op, inputs: list, output: Shape) -> None:
    shape, amounts = inputs[0].shape, _integers(inputs[1])
    if amounts is None:
        return
    _require(
        inputs[1].shape == (len(shape), 2) and min(amounts, default=0) >= 0,
        f"{len(shape)} pairs of at least 0",
        amounts,
    )
    before, after = amounts[::2], amounts[1::2]
    _require_output(tuple(b + n + a for b, n, a in zip(before, shape, after)), output)


def _mean(op: Op, inputs: list, output: Shape) -> None:
    shape, axes = inputs[0].shape, _integers(inputs[1])
    if axes is None:
        return
    _require(all(-len(shape) <= axis < len(shape) for axis in axes), f"axes of {list(shape)}", axes)
    gone = {axis % len(shape) for axis in axes}
    kept = [1 if i in gone else n for i, n in enumerate(shape) if i not in gone or op.options["keep_dims"]]
    _require_output(tuple(kept), output)


def _integers(tensor: Tensor) -> list[int] | None:
    """Return the values of a small integer constant, None if they are only known at run time."""
    if tensor.data is None or tensor.dtype not in ("int32", "int64"):
        return None
    _require(tensor.elements <= 64, "at most 64 integers", tensor.elements)
    return [int(value) for value in tensor.data.flat]


_SAME_SHAPE = (
    "SOFTMAX LOG_SOFTMAX LOGISTIC TANH RELU RELU6 RELU_N1_TO_1 LEAKY_RELU HARD_SWISH GELU EXP QUANTIZE"
    " DEQUANTIZE CAST FAKE_QUANT L2_NORMALIZATION"
)

_RULES: dict[str, Callable[[Op, list, Shape], None]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "L2_POOL_2D": _pool,
    "FULLY_CONNECTED": _fully_connected,
    "CONCATENATION": _concatenation,
    "PAD": _pad,
    "PADV2": _pad,
    "MEAN": _mean,
    "SUM": _mean,
    "REDUCE_MAX": _mean,
    "REDUCE_MIN": _mean,
    **{name: _broadcast for name in "ADD SUB MUL DIV MAXIMUM MINIMUM PRELU".split()},
    **{name: _same_elements for name in "RESHAPE SQUEEZE EXPAND_DIMS".split()},
    **{name: _same_shape for name in _SAME_SHAPE.split()},
}

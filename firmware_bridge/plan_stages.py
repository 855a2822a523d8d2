"""Operators as stages that make feature-map rows from feature-map rows.

A feature map is a tensor seen as rows: [1, H, W, C] has H rows of W·C values; any other shape is one row. A
stage says which rows of each input one output row needs; everything about order and memory follows from that.
RESHAPE is no stage: its output is another name for its input.

A mean over the whole map is two stages, so that the map need not be whole: SUM adds one row at a time to int32
sums, one for each channel, and the operator itself makes its output of the last of them. The sums are a map of
their own, numbered behind the graph's tensors, whose rows replace one another in one place (``running``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

from firmware_bridge.graph import Graph, Op, Tensor, UnsupportedError

_WINDOWED = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "AVERAGE_POOL_2D": None, "MAX_POOL_2D": None}
_ROW_BY_ROW = frozenset({"ADD", "MUL", "LOGISTIC", "QUANTIZE", "DEQUANTIZE"})
_EVERY_ROW = frozenset({"FULLY_CONNECTED", "MEAN", "SOFTMAX"})
SUPPORTED = frozenset({*_WINDOWED, *_ROW_BY_ROW, *_EVERY_ROW, "PAD", "CONCATENATION", "RESHAPE"})
_STORED = {"int8": 1, "uint8": 1}


@dataclass(frozen=True)
class Rows:
    """A feature map: ``count`` rows of ``row_bytes``; ``running``: each row is the one before it, added to."""

    tensor: int
    count: int
    row_bytes: int
    running: bool = False

    @property
    def bytes(self) -> int:
        return self.count * self.row_bytes


@dataclass(frozen=True)
class Window:
    """Output row y reads input rows ``y·stride − pad + i·dilation`` for i < ``taps``, where they exist."""

    taps: int
    stride: int
    pad: int
    dilation: int = 1

    def reads(self, row: int, count: int) -> range:
        """Return the rows of an input of ``count`` rows that output row ``row`` needs."""
        first = row * self.stride - self.pad
        inside = [y for y in range(first, first + self.taps * self.dilation, self.dilation) if 0 <= y < count]
        return range(inside[0], inside[-1] + 1, self.dilation) if inside else range(0)


@dataclass(frozen=True)
class Stage:
    """One operator: feature maps read (each with its window; None: every row) and the one written."""

    op: int
    name: str
    inputs: tuple[int, ...]
    windows: tuple[Window | None, ...]
    output: int

    def reads(self, place: int, row: int, count: int) -> range:
        """Return the rows of input number ``place`` (of ``count`` rows) that output row ``row`` needs."""
        window = self.windows[place]
        return range(count) if window is None else window.reads(row, count)


@dataclass(frozen=True)
class Flow:
    """A network as stages in execution order; ``maps`` by tensor index, ``alias`` from RESHAPE's output to them."""

    maps: Mapping[int, Rows]
    stages: tuple[Stage, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    alias: Mapping[int, int]


def read_flow(graph: Graph) -> Flow:
    """Return ``graph`` as stages.

    Raises UnsupportedError (``float-model``, ``unsupported-operator``, ``unsupported-type``,
    ``unsupported-shape``, ``unsupported-output``) naming operator, tensor and reason.
    """
    alias: dict[int, int] = {}
    stages: list[Stage] = []
    sums: dict[int, Rows] = {}
    for op in graph.ops:
        _check_op(graph, op)
        if op.name == "RESHAPE":
            alias[op.outputs[0]] = alias.get(op.inputs[0], op.inputs[0])
        elif _is_mean_of_map(graph, op):
            rows = _sums(graph, op)
            sums[rows.tensor] = rows
            stages += _sum_stages(op, rows, alias)
        else:
            stages.append(_read_stage(graph, op, alias))
    used = {*graph.inputs, *(stage.output for stage in stages)} - set(sums)
    maps = {index: rows_of(graph.tensor(index)) for index in sorted(used)} | sums
    outputs = tuple(alias.get(index, index) for index in graph.outputs)
    for index in outputs:
        if index not in {stage.output for stage in stages}:
            raise UnsupportedError(
                f"output {graph.tensor(index).name!r} (tensor {index}): expected one that an operator computes, got "
                "a constant or an input",
                code="unsupported-output",
            )
    return Flow(maps, tuple(stages), graph.inputs, outputs, alias)


def same_padding(size: int, kernel: int, *, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return (output size, padding before) of TensorFlow's SAME padding; the odd pixel goes behind."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return out, total // 2


def rows_of(tensor: Tensor) -> Rows:
    """Return a tensor as rows: [1, H, W, C] has H of W·C values, any other shape is one row."""
    size = _STORED[tensor.dtype]
    if len(tensor.shape) == 4:
        return Rows(tensor.index, tensor.shape[1], tensor.shape[2] * tensor.shape[3] * size)
    return Rows(tensor.index, 1, tensor.elements * size)


def _is_mean_of_map(graph: Graph, op: Op) -> bool:
    """Whether ``op`` makes one value a channel of a whole [1, H, W, C] map."""
    source = graph.tensor(op.inputs[0])
    if len(source.shape) != 4 or source.data is not None:
        return False
    if op.name == "MEAN":
        axes = graph.tensor(op.inputs[1]).data
        return axes is not None and sorted(int(axis) % 4 for axis in axes.flat) == [1, 2]
    window = (op.options.get("filter_height"), op.options.get("filter_width"))
    return op.name == "AVERAGE_POOL_2D" and source.shape[1:3] == window and op.options["padding"] == "VALID"


def _sums(graph: Graph, op: Op) -> Rows:
    _, height, _, channels = graph.tensor(op.inputs[0]).shape
    return Rows(len(graph.tensors) + op.index, height, 4 * channels, running=True)


def _sum_stages(op: Op, sums: Rows, alias: Mapping[int, int]) -> list[Stage]:
    source = op.inputs[0]
    window = None if source in alias else Window(1, 1, 0)
    last = Window(1, 1, 1 - sums.count)
    return [
        Stage(op.index, "SUM", (alias.get(source, source),), (window,), sums.tensor),
        Stage(op.index, op.name, (sums.tensor,), (last,), op.outputs[0]),
    ]


def _check_op(graph: Graph, op: Op) -> None:
    first = graph.tensor(op.outputs[0])
    types = {graph.tensor(index).dtype for index in (*op.inputs, *op.outputs) if index >= 0}
    if op.name not in ("QUANTIZE", "DEQUANTIZE") and "float32" in types:
        raise UnsupportedError(
            f"operator {op.index} ({op.name}), tensor {first.name!r}: expected int8, got a float model; quantise "
            "it first, with this command: edge-derm export MODEL.keras --recipe int8 --out BUNDLE",
            code="float-model",
        )
    if op.name not in SUPPORTED:
        custom = op.options.get("custom_code")
        raise _refuse(
            op, first, f"this operator{f' ({custom!r})' if custom else ''} has no C kernel", "operator"
        )
    for index in _activations(graph, op) + op.outputs:
        tensor = graph.tensor(index)
        if tensor.dtype not in _STORED:
            raise _refuse(op, tensor, f"expected int8 or uint8, got {tensor.dtype}", "type")
        if not tensor.shape or tensor.shape[0] != 1 or tensor.elements < 1:
            raise _refuse(
                op, tensor, f"expected batch 1 and no empty side, got {list(tensor.shape)}", "shape"
            )


def _refuse(op: Op, tensor: Tensor, why: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"operator {op.index} ({op.name}), tensor {tensor.index} {tensor.name[:60]!r}: {why}",
        code=f"unsupported-{what}",
    )


def _activations(graph: Graph, op: Op) -> tuple[int, ...]:
    return tuple(index for index in op.inputs if index >= 0 and graph.tensor(index).data is None)


def _read_stage(graph: Graph, op: Op, alias: Mapping[int, int]) -> Stage:
    inputs = _activations(graph, op)
    if not inputs:
        raise _refuse(op, graph.tensor(op.outputs[0]), "expected an input that is not a constant", "shape")
    # Another name has another row division: whoever reads through it needs the whole map.
    windows = tuple(None if index in alias else _window(graph, op, index) for index in inputs)
    return Stage(op.index, op.name, tuple(alias.get(i, i) for i in inputs), windows, op.outputs[0])


def _window(graph: Graph, op: Op, index: int) -> Window | None:
    source, target = graph.tensor(index), graph.tensor(op.outputs[0])
    if op.name in _EVERY_ROW or len(target.shape) != 4 or len(source.shape) != 4:
        return None
    if op.name in _WINDOWED:
        place = _WINDOWED[op.name]
        taps = op.options["filter_height"] if place is None else graph.tensor(op.inputs[place]).shape[1]
        stride, dilation = op.options["stride_h"], op.options.get("dilation_h_factor", 1)
        pad = 0
        if op.options["padding"] == "SAME":
            pad = same_padding(source.shape[1], taps, stride=stride, dilation=dilation)[1]
        return Window(taps, stride, pad, dilation)
    if op.name == "PAD":
        amounts = graph.tensor(op.inputs[1]).data
        if amounts is None:
            raise _refuse(op, graph.tensor(op.inputs[1]), "expected constant paddings", "shape")
        return Window(1, 1, int(amounts.reshape(-1, 2)[1, 0]))
    if op.name == "CONCATENATION" and op.options["axis"] % 4 in (0, 1):
        return None
    return Window(1, 1, 0) if source.shape[1] == target.shape[1] else None

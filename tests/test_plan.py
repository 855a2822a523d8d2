"""Plans are small and never let one row disturb another: the prover against a byte-level simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.graph import Graph, Op, PlanError, Tensor, UnsupportedError
from firmware_bridge.plan import Plan, arrange, plan
from firmware_bridge.plan_memory import prove
from firmware_bridge.plan_stages import Window, read_flow, same_padding


class Net:
    """Writes a graph by hand: operators that matter to a plan, weights without values that matter."""

    def __init__(self, height: int, channels: int, width: int = 3) -> None:
        self.tensors = [Tensor(0, "input", (1, height, width, channels), "int8")]
        self.ops: list[Op] = []

    def tensor(self, shape: tuple[int, ...], dtype: str = "int8", data: np.ndarray | None = None) -> int:
        self.tensors.append(Tensor(len(self.tensors), f"t{len(self.tensors)}", shape, dtype, data=data))
        return len(self.tensors) - 1

    def op(self, name: str, inputs: tuple[int, ...], shape: tuple[int, ...], **options) -> int:
        made = self.tensor(shape)
        self.ops.append(Op(len(self.ops), name, inputs, (made,), options))
        return made

    def conv(self, source: int, channels: int, *, taps=1, stride=1, dilation=1, depthwise=False) -> int:
        _, height, width, depth = self.tensors[source].shape
        sizes = [same_padding(n, taps, stride=stride, dilation=dilation)[0] for n in (height, width)]
        channels = depth if depthwise else channels
        shape = (1, taps, taps, depth) if depthwise else (channels, taps, taps, depth)
        weights = self.tensor(shape, data=np.zeros(shape, np.int8))
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        options = {"padding": "SAME", "stride_h": stride, "dilation_h_factor": dilation}
        return self.op(name, (source, weights), (1, *sizes, channels), **options)

    def mean(self, source: int) -> int:
        axes = self.tensor((2,), "int32", np.array([1, 2], np.int32))
        return self.op("MEAN", (source, axes), (1, self.tensors[source].shape[3]))

    def graph(self, *outputs: int) -> Graph:
        return Graph("net", tuple(self.tensors), tuple(self.ops), (0,), outputs)


def mobilenet(size: int, *, dilation: int = 1) -> Graph:
    """MobileNet v1 of width 0.25 as the MLPerf Tiny person detector has it."""
    net = Net(size, 3, size)
    at = net.conv(0, 8, taps=3, stride=2)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    widths = (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
    for number, (stride, channels) in enumerate(zip(strides, widths, strict=True)):
        rate = dilation if number == 0 else 1
        at = net.conv(net.conv(at, 0, taps=3, stride=stride, dilation=rate, depthwise=True), channels)
    at = net.mean(at)
    weights = net.tensor((2, 256), data=np.zeros((2, 256), np.int8))
    return net.graph(net.op("FULLY_CONNECTED", (at, weights), (1, 2)))


@st.composite
def networks(draw) -> Graph:
    """Random chains with residual joins, strides, dilations, several outputs and a reshaped end."""
    net = Net(draw(st.integers(1, 17)), draw(st.integers(1, 5)))
    at = 0
    for _ in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(["conv", "depthwise", "pointwise", "residual", "concat", "pool"]))
        taps, stride, rate = draw(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)))
        channels = draw(st.integers(1, 9))
        shape = net.tensors[at].shape
        if kind in ("conv", "depthwise"):
            at = net.conv(
                at, channels, taps=taps, stride=stride, dilation=rate, depthwise=kind == "depthwise"
            )
        elif kind == "pointwise":
            at = net.conv(at, channels)
        elif kind == "residual":
            inner = net.conv(net.conv(at, 0, taps=3, dilation=rate, depthwise=True), shape[3])
            at = net.op("ADD", (at, inner), shape)
        elif kind == "concat":
            other = net.conv(at, channels, taps=taps)
            at = net.op("CONCATENATION", (at, other), (*shape[:3], shape[3] + channels), axis=3)
        else:
            size = shape[1] // min(stride, shape[1])
            options = {"filter_height": min(stride, shape[1]), "stride_h": min(stride, shape[1])}
            at = net.op("MAX_POOL_2D", (at,), (1, size, *shape[2:]), padding="VALID", **options)
    ends = {at, draw(st.sampled_from([op.outputs[0] for op in net.ops]))}
    if draw(st.booleans()):
        ends.add(net.mean(at))
    if draw(st.booleans()):
        flat = int(np.prod(net.tensors[at].shape))
        ends.add(net.op("SOFTMAX", (net.op("RESHAPE", (at,), (1, flat)),), (1, flat)))
    return net.graph(*sorted(ends))


def disturbed(made: Plan) -> str:
    """Run the plan on an arena of bytes that know which row they belong to; return the first thing wrong."""
    flow, blocks = made.flow, {block.tensor: block for block in made.blocks}
    arena = np.full((made.arena_bytes, 2), -1)

    def area(tensor: int, row: int) -> slice:
        start = blocks[tensor].address(row)
        return slice(start, start + flow.maps[tensor].row_bytes)

    def broken(tensor: int, row: int) -> bool:
        return bool(np.any(arena[area(tensor, row)] != (tensor, row)))

    for tensor in flow.inputs:
        for row in range(flow.maps[tensor].count):
            arena[area(tensor, row)] = (tensor, row)
    if any(broken(tensor, row) for tensor in flow.inputs for row in range(flow.maps[tensor].count)):
        return "the input does not fit"
    for time, step in enumerate(made.schedule.steps):
        stage = flow.stages[step.stage]
        rows = range(step.first, step.first + step.count)
        read = {
            (tensor, source)
            for place, tensor in enumerate(stage.inputs)
            for row in rows
            for source in stage.reads(place, row, flow.maps[tensor].count)
        }
        if flow.maps[stage.output].running and step.first:  # what is added to must still be there
            read.add((stage.output, step.first - 1))
            replaced = {(stage.output, step.first - 1)}
        else:
            replaced = set()
        if any(broken(*row) for row in read):
            return f"step {time} reads a row that is not there"
        for row in rows:
            arena[area(stage.output, row)] = (stage.output, row)
        if any(broken(*row) for row in {*read - replaced, *((stage.output, row) for row in rows)}):
            return f"step {time} writes over what it reads or makes"
    ends = [(tensor, row) for tensor in flow.outputs for row in range(flow.maps[tensor].count)]
    return "an output is gone" if any(broken(*row) for row in ends) else ""


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(networks(), st.data())
def test_a_plan_never_lets_a_row_be_disturbed(graph, data):
    made = plan(graph, arena_limit=data.draw(st.sampled_from([None, 0, 5_000])))
    assert disturbed(made) == ""
    produced = [
        (step.stage, row)
        for step in made.schedule.steps
        for row in range(step.first, step.first + step.count)
    ]
    rows = [made.flow.maps[stage.output].count for stage in made.flow.stages]
    assert sorted(produced) == [(k, row) for k, count in enumerate(rows) for row in range(count)]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(networks(), st.data())
def test_the_prover_and_the_bytes_agree_on_moved_blocks(graph, data):
    flow = read_flow(graph)
    heights = [data.draw(st.integers(1, 4)) for _ in flow.stages]
    made = arrange(flow, streamed=data.draw(st.integers(0, len(flow.stages))), heights=heights)
    moved = data.draw(st.integers(0, len(made.blocks) - 1))
    offset = 4 * data.draw(st.integers(0, made.arena_bytes // 4))
    blocks = tuple(replace(b, offset=offset) if i == moved else b for i, b in enumerate(made.blocks))
    try:
        prove(flow, made.schedule, blocks)
        proved = True
    except PlanError as error:
        assert error.code == "overlap"
        proved = False
    assert proved == (disturbed(replace(made, blocks=blocks)) == "")


@settings(max_examples=40, deadline=None)
@given(networks(), st.data())
def test_a_ring_that_is_too_small_is_never_proved(graph, data):
    made = arrange(read_flow(graph), streamed=len(graph.ops))
    rings = [i for i, block in enumerate(made.blocks) if block.capacity > 1]
    if not rings:
        return
    chosen = data.draw(st.sampled_from(rings))
    blocks = tuple(
        replace(block, capacity=block.capacity - 1) if i == chosen else block
        for i, block in enumerate(made.blocks)
    )
    with pytest.raises(PlanError) as caught:
        prove(made.flow, made.schedule, blocks)
    assert caught.value.code == "overlap"
    assert disturbed(replace(made, blocks=blocks))


@pytest.mark.slow
@pytest.mark.parametrize("size, dilation, limit", [(96, 1, 45_000), (128, 1, 70_000), (128, 2, 70_000)])
def test_a_mobilenet_needs_less_than_half_of_a_tensor_by_tensor_arena(size, dilation, limit):
    made = plan(mobilenet(size, dilation=dilation))
    assert made.arena_bytes <= limit
    assert disturbed(made) == ""


def test_a_mean_over_the_whole_map_never_needs_the_whole_map():
    net = Net(40, 16, 8)
    made = plan(net.graph(net.mean(net.conv(net.conv(0, 0, taps=3, depthwise=True), 64))), arena_limit=0)
    assert made.arena_bytes <= 40 * 8 * 16 + 3 * 8 * (16 + 64)  # of the last map (20 kB) a few rows
    assert disturbed(made) == ""


@pytest.mark.slow
def test_a_larger_arena_buys_fewer_steps_and_is_never_exceeded():
    graph = mobilenet(64)
    small, roomy = plan(graph, arena_limit=0), plan(graph, arena_limit=24_000)
    assert small.arena_bytes <= roomy.arena_bytes <= 24_000
    assert len(roomy.schedule.steps) < len(small.schedule.steps)
    assert disturbed(roomy) == ""


@pytest.mark.slow
def test_without_a_limit_the_arena_is_at_most_a_third_above_the_smallest():
    graph = mobilenet(64)
    small, made = plan(graph, arena_limit=0), plan(graph)
    assert small.arena_bytes <= made.arena_bytes <= max(1.3 * small.arena_bytes, small.arena_bytes + 3_840)
    assert 2 * len(made.schedule.steps) < len(small.schedule.steps)


def test_a_plan_is_the_same_every_time():
    assert plan(mobilenet(32)) == plan(mobilenet(32))


@pytest.mark.parametrize(
    "window, row, count, expected",
    [
        (Window(3, 1, 1), 0, 8, [0, 1]),
        (Window(3, 1, 1), 7, 8, [6, 7]),
        (Window(3, 2, 0), 3, 8, [6, 7]),
        (Window(3, 1, 2, dilation=2), 0, 8, [0, 2]),
        (Window(3, 1, 3, dilation=3), 4, 8, [1, 4, 7]),
        (Window(3, 1, 9, dilation=9), 2, 4, [2]),
        (Window(1, 1, 2), 0, 4, []),
    ],
)
def test_a_window_reads_the_rows_its_definition_says(window, row, count, expected):
    assert list(window.reads(row, count)) == expected


@pytest.mark.parametrize(
    "size, kernel, stride, dilation, expected",
    [(96, 3, 2, 1, (48, 0)), (49, 10, 2, 1, (25, 4)), (10, 4, 2, 1, (5, 1)), (64, 3, 1, 2, (64, 2))],
)
def test_same_padding_is_tensorflows(size, kernel, stride, dilation, expected):
    assert same_padding(size, kernel, stride=stride, dilation=dilation) == expected


def test_an_unsupported_operator_is_named_with_its_tensor():
    net = Net(4, 2)
    with pytest.raises(UnsupportedError, match=r"operator 0 \(ATAN2\), tensor 1 't1'") as caught:
        plan(net.graph(net.op("ATAN2", (0,), (1, 4, 3, 2))))
    assert caught.value.code == "unsupported-operator"


def test_a_float_model_is_told_how_to_be_quantised():
    net = Net(4, 2)
    net.tensors[0] = replace(net.tensors[0], dtype="float32")
    with pytest.raises(UnsupportedError, match="edge-derm export MODEL.keras --recipe int8") as caught:
        plan(net.graph(net.conv(0, 4)))
    assert caught.value.code == "float-model"


def test_a_batch_is_refused():
    net = Net(4, 2)
    net.tensors[0] = replace(net.tensors[0], shape=(2, 4, 3, 2))
    with pytest.raises(UnsupportedError, match="batch 1") as caught:
        plan(net.graph(net.conv(0, 4)))
    assert caught.value.code == "unsupported-shape"


def test_the_prover_names_what_is_wrong_with_a_block():
    made = plan(mobilenet(32))
    flow, schedule, blocks = made.flow, made.schedule, made.blocks
    for changed, code in (
        (blocks[1:], "map-missing"),
        ((replace(blocks[0], offset=-4), *blocks[1:]), "outside-arena"),
        ((replace(blocks[0], offset=blocks[0].offset + 1), *blocks[1:]), "misaligned"),
    ):
        with pytest.raises(PlanError) as caught:
            prove(flow, schedule, changed)
        assert caught.value.code == code

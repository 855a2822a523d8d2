"""Graph -> Plan: the order of row steps and the place of every row in one small arena.

Three things are free: where the streamed first part of the network ends, and how many rows each stage makes a
step. ``plan`` searches them for the smallest arena, then makes the steps as tall as that arena allows, because
fewer, larger steps cost fewer instructions. The result is proved before it is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from firmware_bridge.graph import Graph
from firmware_bridge.plan_memory import ALIGNMENT, Block, arena_bytes, place, prove
from firmware_bridge.plan_schedule import Schedule, order
from firmware_bridge.plan_stages import Flow, read_flow

_HEIGHTS = (8, 4, 2)


@dataclass(frozen=True)
class Plan:
    """Everything the generated code needs to know about time and place."""

    flow: Flow
    schedule: Schedule
    blocks: tuple[Block, ...]

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena, the network's input and output included."""
        return arena_bytes(self.blocks)

    def block(self, tensor: int) -> Block:
        """Return where ``tensor`` (or what it is another name of) lives."""
        index = self.flow.alias.get(tensor, tensor)
        return next(block for block in self.blocks if block.tensor == index)


def plan(graph: Graph, *, arena_limit: int = 0) -> Plan:
    """Return a proved plan of small arena for an int8 network of batch 1.

    ``arena_limit``: bytes the arena may take if the smallest needs fewer; what is free buys taller steps.
    Raises UnsupportedError for what ``plan_stages`` cannot express, PlanError if no order exists.
    """
    flow = read_flow(graph)
    streamed = (arrange(flow, streamed=k) for k in range(len(flow.stages) + 1))
    best = min(streamed, key=lambda found: found.arena_bytes)
    cuts = _cuts(flow, _streamed(flow, best))
    limit = max(arena_limit, best.arena_bytes)
    for stage in reversed(range(len(flow.stages))):
        best = _heighten(best, stage, cuts, limit)
    prove(best.flow, best.schedule, best.blocks)
    return best


def plan_apart(graph: Graph) -> Plan:
    """Return a proved plan in which every feature map is whole, in a place of its own, and made layer by layer.

    For check builds: after a run every intermediate tensor is still there. Raises as ``plan``.
    """
    flow = read_flow(graph)
    heights = [flow.maps[stage.output].count for stage in flow.stages]
    schedule = _arranged(flow, heights, _cuts(flow, 0)).schedule
    blocks, offset = [], 0
    for tensor, rows in flow.maps.items():
        blocks.append(Block(tensor, offset, 1 if rows.running else rows.count, rows.row_bytes))
        offset += -(-blocks[-1].bytes // ALIGNMENT) * ALIGNMENT
    prove(flow, schedule, blocks)
    return Plan(flow, schedule, tuple(blocks))


def arrange(flow: Flow, *, streamed: int, heights: Sequence[int] | None = None) -> Plan:
    """Return the (unproved) plan whose first ``streamed`` stages stream and whose others go layer by layer.

    A stage that reads a depthwise convolution is never cut off it: the depthwise output is a few rows then.
    ``heights``: rows a step of each stage, 1 by default; running sums take one row a step whatever it says.
    """
    return _arranged(flow, heights or [1] * len(flow.stages), _cuts(flow, streamed))


def _arranged(flow: Flow, heights: Sequence[int], cuts: frozenset[int]) -> Plan:
    fitting = [
        1 if flow.maps[stage.output].running else height
        for stage, height in zip(flow.stages, heights, strict=True)
    ]
    schedule = order(flow, heights=fitting, cuts=cuts)
    return Plan(flow, schedule, place(flow, schedule))


def _cuts(flow: Flow, streamed: int) -> frozenset[int]:
    depthwise = {stage.output for stage in flow.stages if stage.name == "DEPTHWISE_CONV_2D"}
    return frozenset(
        k for k, stage in enumerate(flow.stages) if k >= streamed and depthwise.isdisjoint(stage.inputs)
    )


def _streamed(flow: Flow, chosen: Plan) -> int:
    return next(
        k
        for k in range(len(flow.stages) + 1)
        if order(flow, heights=chosen.schedule.heights, cuts=_cuts(flow, k)) == chosen.schedule
    )


def _heighten(chosen: Plan, stage: int, cuts: frozenset[int], limit: int) -> Plan:
    """Make the steps of one stage as tall as an arena of ``limit`` bytes allows."""
    flow = chosen.flow
    output = flow.maps[flow.stages[stage].output]
    rows = 1 if output.running else output.count
    for height in (rows, *(h for h in _HEIGHTS if h < rows)):
        heights = list(chosen.schedule.heights)
        heights[stage] = height
        tried = _arranged(flow, heights, cuts)
        if tried.arena_bytes <= limit:
            return tried
    return chosen

"""Graph -> Plan: the order of row steps and the place of every row in one small arena.

Three things are free: where the streamed first part of the network ends, and how many rows each stage makes a
step. ``plan`` searches them for the smallest arena, then makes the steps as tall as that arena allows, because
fewer, larger steps cost fewer instructions. The result is proved before it is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from firmware_bridge.graph import Graph
from firmware_bridge.plan_memory import ALIGNMENT, Block, arena_bytes, least_bytes, place, prove
from firmware_bridge.plan_schedule import Schedule, order
from firmware_bridge.plan_stages import Flow, read_flow

_HEIGHTS = (8, 4, 2)
_FEW_TRIES = 6


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


def plan(graph: Graph, *, arena_limit: int | None = None) -> Plan:
    """Return a proved plan of small arena for an int8 network of batch 1.

    ``arena_limit``: bytes the arena may take if the smallest possible needs fewer; what is free buys taller, and so
    fewer, steps. 0 asks for the smallest; None for ``roomy``, a little more, which costs far fewer instructions.
    Raises UnsupportedError for what ``plan_stages`` cannot express, PlanError if no order exists.
    """
    flow = read_flow(graph)
    small, cuts = _smallest(flow)
    limit = max(small.arena_bytes, roomy(small.arena_bytes) if arena_limit is None else arena_limit)
    starts = [(small, cuts)]
    if limit > small.arena_bytes:
        starts += [(made, cuts) for made in _of_height(flow, 2, cuts, limit)]
        least = _least_streaming(flow, cuts, limit)
        if least != cuts:
            starts += [(made, least) for height in (1, 2) for made in _of_height(flow, height, least, limit)]
    tall = (_heighten_all(start, cut, limit) for start, cut in starts)
    best = min(tall, key=lambda made: (len(made.schedule.steps), made.arena_bytes))
    prove(best.flow, best.schedule, best.blocks)
    return best


def roomy(smallest: int) -> int:
    """Return the arena limit for a network whose smallest arena has ``smallest`` bytes: 30 % or 3,840 bytes more."""
    return smallest + max(smallest * 3 // 10, 3_840)


def plan_apart(graph: Graph) -> Plan:
    """Return a proved plan in which every feature map is whole, in a place of its own, and made layer by layer.

    For check builds: after a run every intermediate tensor is still there. Raises as ``plan``.
    """
    flow = read_flow(graph)
    heights = [flow.maps[stage.output].count for stage in flow.stages]
    schedule = _order(flow, heights, _cuts(flow, 0))
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
    schedule = _order(flow, heights or [1] * len(flow.stages), _cuts(flow, streamed))
    return Plan(flow, schedule, place(flow, schedule))


def _order(flow: Flow, heights: Sequence[int], cuts: frozenset[int]) -> Schedule:
    fitting = [
        1 if flow.maps[stage.output].running else height
        for stage, height in zip(flow.stages, heights, strict=True)
    ]
    return order(flow, heights=fitting, cuts=cuts)


def _smallest(flow: Flow) -> tuple[Plan, frozenset[int]]:
    """Return the plan of smallest arena among all that stream a first part, one row a step, and its cuts.

    Those that need least at their fullest step are placed first; when no other could be smaller, the search ends.
    """
    candidates = list(dict.fromkeys(_cuts(flow, streamed) for streamed in range(len(flow.stages) + 1)))
    schedules = [_order(flow, [1] * len(flow.stages), cuts) for cuts in candidates]
    least = [least_bytes(flow, schedule) for schedule in schedules]
    best: tuple[Plan, frozenset[int]] | None = None
    for k in sorted(range(len(candidates)), key=lambda k: least[k]):
        if best is not None and least[k] >= best[0].arena_bytes:
            break
        found = Plan(flow, schedules[k], place(flow, schedules[k]))
        if best is None or found.arena_bytes < best[0].arena_bytes:
            best = found, candidates[k]
    assert best is not None  # there is at least the candidate that streams nothing
    return best


def _cuts(flow: Flow, streamed: int) -> frozenset[int]:
    depthwise = {stage.output for stage in flow.stages if stage.name == "DEPTHWISE_CONV_2D"}
    return frozenset(
        k for k, stage in enumerate(flow.stages) if k >= streamed and depthwise.isdisjoint(stage.inputs)
    )


def _of_height(flow: Flow, height: int, cuts: frozenset[int], limit: int) -> list[Plan]:
    """Return the plan in which every stage makes ``height`` rows a step, if its arena is within ``limit``."""
    heights = [min(height, flow.maps[stage.output].count) for stage in flow.stages]
    schedule = _order(flow, heights, cuts)
    if least_bytes(flow, schedule) > limit:
        return []
    made = Plan(flow, schedule, place(flow, schedule, enough=limit))
    return [made] if made.arena_bytes <= limit else []


def _least_streaming(flow: Flow, otherwise: frozenset[int], limit: int) -> frozenset[int]:
    """Return the cuts of the plan that streams the shortest first part of all within ``limit``."""
    for streamed in range(len(flow.stages) + 1):
        cuts = _cuts(flow, streamed)
        if _of_height(flow, 1, cuts, limit):
            return cuts
    return otherwise


def _heighten_all(chosen: Plan, cuts: frozenset[int], limit: int) -> Plan:
    for stage in reversed(range(len(chosen.flow.stages))):
        chosen = _heighten(chosen, stage, cuts, limit)
    return chosen


def _heighten(chosen: Plan, stage: int, cuts: frozenset[int], limit: int) -> Plan:
    """Make the steps of one stage as tall as an arena of ``limit`` bytes allows."""
    flow = chosen.flow
    output = flow.maps[flow.stages[stage].output]
    rows = 1 if output.running else output.count
    for height in (rows, *(h for h in _HEIGHTS if h < rows)):
        if height <= chosen.schedule.heights[stage]:
            break
        heights = list(chosen.schedule.heights)
        heights[stage] = height
        schedule = _order(flow, heights, cuts)
        if least_bytes(flow, schedule) <= limit:
            tried = Plan(flow, schedule, place(flow, schedule, enough=limit, tries=_FEW_TRIES))
            if tried.arena_bytes <= limit:
                return tried
    return chosen

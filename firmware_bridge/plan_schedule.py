"""Stages -> a fixed order of row steps, and how long each row of each feature map is needed.

One step lets one stage make its next ``height`` rows. The order is demand-driven: always the most downstream
stage that can run, so rows wait as short as possible. A *cut* stage begins only when its inputs are complete:
with every stage cut the order is layer by layer, with none cut the whole network streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

from firmware_bridge.graph import PlanError
from firmware_bridge.plan_stages import Flow

BEFORE = -1  # the time at which the caller has put the input there


@dataclass(frozen=True)
class Step:
    """Stage number ``stage`` makes output rows ``first`` … ``first + count − 1``."""

    stage: int
    first: int
    count: int


@dataclass(frozen=True)
class Life:
    """Steps between which a row must stay untouched, both included."""

    born: int
    dies: int


@dataclass(frozen=True)
class Schedule:
    """The order, and the life of every row: ``lives[tensor][row]``."""

    steps: tuple[Step, ...]
    heights: tuple[int, ...]
    lives: Mapping[int, tuple[Life, ...]]


def order(flow: Flow, *, heights: Sequence[int], cuts: frozenset[int] = frozenset()) -> Schedule:
    """Return the schedule of ``flow``: stage k makes ``heights[k]`` rows a step; stages in ``cuts`` wait.

    PlanError ``no-order`` if no stage can run before all is done (a stage that reads what nobody makes).
    """
    made = {tensor: 0 for tensor in flow.maps} | {tensor: flow.maps[tensor].count for tensor in flow.inputs}
    needs = [_needs(flow, k, heights[k], k in cuts) for k in range(len(flow.stages))]
    done = [0] * len(flow.stages)
    steps: list[Step] = []
    total = sum(len(need) for need in needs)
    while len(steps) < total:
        stage = _choose(needs, done, made)
        if stage is None:
            raise PlanError(
                "expected an order of all stages; some stage reads what none makes", code="no-order"
            )
        output = flow.stages[stage].output
        count = min(heights[stage], flow.maps[output].count - made[output])
        steps.append(Step(stage, made[output], count))
        made[output] += count
        done[stage] += 1
    return Schedule(tuple(steps), tuple(heights), _lives(flow, steps))


def _needs(flow: Flow, number: int, height: int, cut: bool) -> list[dict[int, int]]:
    """For each step of a stage: input tensor -> how many of its rows must be there."""
    stage = flow.stages[number]
    rows = flow.maps[stage.output].count
    found = []
    for first in range(0, rows, height):
        need: dict[int, int] = {}
        for place, tensor in enumerate(stage.inputs):
            count = flow.maps[tensor].count
            reads = [stage.reads(place, row, count) for row in range(first, min(first + height, rows))]
            last = max((read[-1] + 1 for read in reads if read), default=0)
            need[tensor] = max(need.get(tensor, 0), count if cut else last)
        found.append(need)
    return found


def _choose(needs: list[list[dict[int, int]]], done: list[int], made: dict[int, int]) -> int | None:
    for stage in range(len(needs) - 1, -1, -1):
        if done[stage] < len(needs[stage]):
            for tensor, rows in needs[stage][done[stage]].items():
                if made[tensor] < rows:
                    break
            else:
                return stage
    return None


def _lives(flow: Flow, steps: Sequence[Step]) -> dict[int, tuple[Life, ...]]:
    born = {tensor: [BEFORE] * rows.count for tensor, rows in flow.maps.items()}
    dies = {tensor: [BEFORE] * rows.count for tensor, rows in flow.maps.items()}
    for time, step in enumerate(steps):
        stage = flow.stages[step.stage]
        for row in range(step.first, step.first + step.count):
            born[stage.output][row] = dies[stage.output][row] = time
            for place, tensor in enumerate(stage.inputs):
                for read in stage.reads(place, row, flow.maps[tensor].count):
                    dies[tensor][read] = time
    for tensor, rows in flow.maps.items():
        if rows.running:  # the next row is made of this one, in its place
            dies[tensor][:-1] = [time - 1 for time in born[tensor][1:]]
    for tensor in flow.outputs:
        dies[tensor] = [len(steps)] * flow.maps[tensor].count
    return {t: tuple(Life(b, d) for b, d in zip(born[t], dies[t], strict=True)) for t in flow.maps}

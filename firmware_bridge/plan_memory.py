"""Where every row of every feature map lives in one arena, and the proof that no two disturb each other.

A feature map is a block of ``capacity`` row slots, row y in slot y mod capacity: a ring if it holds fewer
rows than the map has. Blocks may share bytes as long as no two rows that are needed at the same time do.
Inside one step, rows read and rows written count as needed at the same time, so a kernel may read and write
in any order.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Iterable, Mapping

import numpy as np

from firmware_bridge.graph import PlanError
from firmware_bridge.plan_schedule import Schedule
from firmware_bridge.plan_stages import Flow

ALIGNMENT = 4
TRIES = 150


@dataclass(frozen=True)
class Block:
    """One feature map in the arena, from byte ``offset``: ``capacity`` slots of ``row_bytes``."""

    tensor: int
    offset: int
    capacity: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        return self.capacity * self.row_bytes

    def address(self, row: int) -> int:
        """Return the first byte of ``row`` in the arena."""
        return self.offset + row % self.capacity * self.row_bytes


def size_rings(flow: Flow, schedule: Schedule) -> dict[int, int]:
    """Return how many row slots each feature map needs under ``schedule``.

    Capacities are multiples of the step heights of producer and readers, so that a step's rows are contiguous.
    A map that is read under another shape, or is the network's input or output, is kept whole; running sums have one
    place.
    """
    whole = {*flow.inputs, *flow.outputs, *flow.alias.values()}
    heights: dict[int, int] = {}
    for stage, height in zip(flow.stages, schedule.heights, strict=True):
        for tensor in (stage.output, *stage.inputs):
            heights[tensor] = math.lcm(heights.get(tensor, 1), height)
    capacities = {}
    for tensor, rows in flow.maps.items():
        span = rows.count if tensor in whole else _span(schedule, tensor)
        height = 1 if rows.running else heights.get(tensor, 1)
        capacities[tensor] = min(rows.count, -(-span // height) * height)
    return capacities


def place(flow: Flow, schedule: Schedule, *, enough: int = 0, tries: int = TRIES) -> tuple[Block, ...]:
    """Return non-disturbing blocks of small total size.

    First fit by size, by birth and by death; then the best order is changed at random, always in the same way, up to
    ``tries`` times, while the arena is above both ``enough`` and the bytes in use at the fullest step.
    """
    capacities = size_rings(flow, schedule)
    lives = {tensor: _slot_lives(schedule, tensor, capacities[tensor]) for tensor in flow.maps}
    size = {tensor: capacities[tensor] * rows.row_bytes for tensor, rows in flow.maps.items()}
    goal = max(enough, _fullest(flow, lives))
    orders = (
        sorted(flow.maps, key=lambda t: (-size[t], t)),
        sorted(flow.maps, key=lambda t: (lives[t][:, 0].min(), -size[t], t)),
        sorted(flow.maps, key=lambda t: (-lives[t][:, 1].max(), -size[t], t)),
    )
    found = [(_fit(flow, capacities, lives, order), order) for order in orders]
    blocks, best = min(found, key=lambda one: arena_bytes(one[0]))
    chance = random.Random(len(flow.maps))
    for _ in range(tries):
        if arena_bytes(blocks) <= goal:
            break
        changed = _move_one(best, chance)
        tried = _fit(flow, capacities, lives, changed)
        if arena_bytes(tried) <= arena_bytes(blocks):
            blocks, best = tried, changed
    return blocks


def least_bytes(flow: Flow, schedule: Schedule) -> int:
    """Return the bytes in use at the fullest step of ``schedule``: no placing needs fewer."""
    capacities = size_rings(flow, schedule)
    return _fullest(flow, {t: _slot_lives(schedule, t, capacities[t]) for t in flow.maps})


def arena_bytes(blocks: Iterable[Block]) -> int:
    """Return the bytes from the start of the arena to the end of its last block."""
    return max((block.offset + block.bytes for block in blocks), default=0)


def prove(flow: Flow, schedule: Schedule, blocks: Iterable[Block]) -> None:
    """Check that no row is overwritten, even in part, from the step that makes it to the last that reads it.

    Raises PlanError: ``map-missing``, ``outside-arena``, ``misaligned``, ``row-split`` or ``overlap`` with the two
    rows and the step. Compares every pair of rows; knows nothing of how ``place`` found the offsets.
    """
    by_tensor = {block.tensor: block for block in blocks}
    for tensor in flow.maps:
        _check_block(flow, schedule, by_tensor, tensor)
    names = [(tensor, row) for tensor, rows in flow.maps.items() for row in range(rows.count)]
    start = np.array([by_tensor[t].address(row) for t, row in names])
    stop = start + np.array([flow.maps[t].row_bytes for t, _ in names])
    born = np.array([schedule.lives[t][row].born for t, row in names])
    dies = np.array([schedule.lives[t][row].dies for t, row in names])
    for i in range(len(names)):
        later = slice(i + 1, None)
        together = (born[later] <= dies[i]) & (dies[later] >= born[i])
        sharing = (start[later] < stop[i]) & (stop[later] > start[i])
        if np.any(together & sharing):
            j = i + 1 + int(np.argmax(together & sharing))
            raise PlanError(
                f"row {names[i][1]} of tensor {names[i][0]} and row {names[j][1]} of tensor {names[j][0]} share "
                f"bytes and are both needed at step {max(born[i], born[j])}",
                code="overlap",
            )


def _check_block(flow: Flow, schedule: Schedule, blocks: Mapping[int, Block], tensor: int) -> None:
    block, rows = blocks.get(tensor), flow.maps[tensor]
    if block is None or block.row_bytes != rows.row_bytes or block.capacity < 1:
        raise PlanError(
            f"tensor {tensor}: expected a block of {rows.row_bytes}-byte rows", code="map-missing"
        )
    if block.offset < 0:
        raise PlanError(f"tensor {tensor}: offset {block.offset} is outside the arena", code="outside-arena")
    if block.offset % ALIGNMENT:
        raise PlanError(
            f"tensor {tensor}: offset {block.offset} is no multiple of {ALIGNMENT}", code="misaligned"
        )
    for step in schedule.steps:
        wraps = step.first % block.capacity + step.count > block.capacity
        if flow.stages[step.stage].output == tensor and wraps:
            raise PlanError(f"tensor {tensor}: the rows of one step are not contiguous", code="row-split")


def _span(schedule: Schedule, tensor: int) -> int:
    """The most rows from the oldest still needed to the newest made, over all steps."""
    lives = schedule.lives[tensor]
    widest, oldest = 1, 0
    for newest, life in enumerate(lives):
        while oldest < newest and lives[oldest].dies < life.born:
            oldest += 1
        widest = max(widest, newest + 1 - oldest)
    return widest


def _slot_lives(schedule: Schedule, tensor: int, capacity: int) -> np.ndarray:
    """int64 [capacity, 2]: first birth and last death in each slot."""
    lives = schedule.lives[tensor]
    return np.array(
        [
            (min(x.born for x in lives[slot::capacity]), max(x.dies for x in lives[slot::capacity]))
            for slot in range(capacity)
        ],
        np.int64,
    )


def _fullest(flow: Flow, lives: Mapping[int, np.ndarray]) -> int:
    last = max(int(life[:, 1].max()) for life in lives.values())
    change = np.zeros(
        last + 3, np.int64
    )  # at time t, from −1: bytes that come into use less those no longer in use
    for tensor, life in lives.items():
        np.add.at(change, life[:, 0] + 1, flow.maps[tensor].row_bytes)
        np.add.at(change, life[:, 1] + 2, -flow.maps[tensor].row_bytes)
    return int(change.cumsum().max())


def _move_one(order: list[int], chance: random.Random) -> list[int]:
    changed = list(order)
    moved = changed.pop(chance.randrange(len(changed)))
    changed.insert(chance.randrange(len(changed) + 1), moved)
    return changed


def _fit(
    flow: Flow, capacities: Mapping[int, int], lives: Mapping[int, np.ndarray], order: list[int]
) -> tuple[Block, ...]:
    blocks: list[Block] = []
    taken = np.zeros((0, 4), np.int64)  # first byte, end, born, dies of every slot placed so far
    for tensor in order:
        row_bytes = flow.maps[tensor].row_bytes
        slots = np.arange(capacities[tensor], dtype=np.int64) * row_bytes
        offset = _lowest_gap(taken, slots, row_bytes, lives[tensor])
        blocks.append(Block(tensor, offset, capacities[tensor], row_bytes))
        added = np.column_stack([slots + offset, slots + offset + row_bytes, lives[tensor]])
        taken = np.concatenate([taken, added])
    return tuple(sorted(blocks, key=lambda block: block.tensor))


def _lowest_gap(taken: np.ndarray, slots: np.ndarray, row_bytes: int, lives: np.ndarray) -> int:
    """The lowest aligned offset at which no slot shares bytes with a taken one that lives at the same time.

    Each such pair forbids an open interval of offsets; the answer is the first point outside their union.
    """
    together = (lives[:, None, 0] <= taken[None, :, 3]) & (lives[:, None, 1] >= taken[None, :, 2])
    mine, other = np.nonzero(together)
    low = taken[other, 0] - slots[mine] - row_bytes
    high = taken[other, 1] - slots[mine]
    near = np.argsort(low)
    reach = np.append(0, -(-high[near] // ALIGNMENT) * ALIGNMENT)
    np.maximum.accumulate(reach, out=reach)  # the first offset above 0, 1, 2, … intervals
    free = np.append(low[near] >= reach[:-1], True)
    return int(reach[free.argmax()])

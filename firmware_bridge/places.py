"""Where a plan puts feature maps, as C expressions.

The generated code has ``at(offset, row_bytes, capacity, y)``, the address of row y of a ring in the arena, and a
``struct ed_rows`` for each map whose reader slides over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge.graph import Graph
from firmware_bridge.plan import Plan
from firmware_bridge.plan_stages import Rows, rows_of


@dataclass(frozen=True)
class Places:
    """The feature maps of one plan; a RESHAPE's output is its input's bytes in the rows of its own shape."""

    graph: Graph
    plan: Plan

    def seen(self, tensor: int) -> Rows:
        """Return the rows of ``tensor`` as whoever reads it under that number sees them."""
        return rows_of(self.graph.tensor(tensor)) if tensor in self.plan.flow.alias else self._map(tensor)

    def running(self, tensor: int) -> bool:
        """Whether ``tensor`` holds running sums rather than a feature map."""
        return tensor not in self.plan.flow.alias and self._map(tensor).running

    def row(self, tensor: int, y: str) -> str:
        """C: the address of row ``y``; 0 where a whole map starts."""
        block, rows = self.plan.block(tensor), self.seen(tensor)
        capacity = self._capacity(tensor)
        return f"at({block.offset}, {rows.row_bytes}, {capacity}, {y})"

    def rows(self, tensor: int) -> str:
        """C: the name of the ``struct ed_rows`` of ``tensor``."""
        return f"map_{tensor}"

    def define_rows(self, tensor: int) -> str:
        """C: the definition of that struct."""
        rows, offset = self.seen(tensor), self.plan.block(tensor).offset
        values = f"(const int8_t *)arena + {offset}, {rows.row_bytes}, {self._capacity(tensor)}, {rows.count}"
        return f"static const struct ed_rows {self.rows(tensor)} = {{{values}}};"

    def _map(self, tensor: int) -> Rows:
        return self.plan.flow.maps[tensor]

    def _capacity(self, tensor: int) -> int:
        whole = tensor in self.plan.flow.alias
        return self.seen(tensor).count if whole else self.plan.block(tensor).capacity

"""A .tflite file -> everything ``generate`` and ``run`` start from: graph, graph without float ends, plan."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np

from firmware_bridge.edges import without_float_edges
from firmware_bridge.graph import BridgeError, Graph
from firmware_bridge.plan import Plan, plan, plan_apart
from firmware_bridge.tflite import parse


@dataclass(frozen=True)
class Network:
    """A model that can become C: its file, what was read of it, and when and where its rows are made.

    ``whole`` is the graph as stored, ``graph`` the one without float ends, which is what runs on a device.
    """

    model: bytes
    whole: Graph
    graph: Graph
    plan: Plan

    @property
    def digest(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.graph.tensor(index).shape for index in self.graph.inputs)


def read_network(model: bytes, *, arena_limit: int | None = None) -> Network:
    """Return ``model`` read and planned; ``arena_limit`` as in ``plan.plan``.

    Raises FormatError (not a well-formed .tflite), UnsupportedError (no C for it) or PlanError.
    """
    whole = parse(model)
    graph = without_float_edges(whole)
    return Network(bytes(model), whole, graph, plan(graph, arena_limit=arena_limit))


def kept_apart(network: Network) -> Network:
    """Return the network under the plan of the check build: no two feature maps share memory, none is a ring."""
    return replace(network, plan=plan_apart(network.graph))


def lcg_bytes(seed: int, count: int) -> np.ndarray:
    """Return ``count`` int8 of s ← s·1664525 + 1013904223 (mod 2³²) from s = seed, each the top byte of s.

    >>> lcg_bytes(12345, 4)
    array([   5,    4, -117,  -94], dtype=int8)
    """
    values = np.empty(count, np.uint8)
    state = seed % 2**32
    for place in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        values[place] = state >> 24
    return values.view(np.int8)


def lcg_inputs(network: Network, seed: int) -> tuple[np.ndarray, ...]:
    """Return the input ``lcg:SEED``: one sequence over all inputs of the network, row-major; uint8 takes the same bits."""
    sizes = [network.graph.tensor(index).elements for index in network.graph.inputs]
    parts = np.split(lcg_bytes(seed, sum(sizes)), np.cumsum(sizes)[:-1])
    return check_inputs(
        network,
        [
            part.view(network.graph.tensor(index).dtype).reshape(network.graph.tensor(index).shape)
            for index, part in zip(network.graph.inputs, parts, strict=True)
        ],
    )


def check_inputs(network: Network, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return ``arrays`` with the stored shapes; BridgeError ``bad-input`` if dtype or number of values differ."""
    tensors = [network.graph.tensor(index) for index in network.graph.inputs]
    if len(arrays) != len(tensors):
        raise BridgeError(f"expected {len(tensors)} inputs, got {len(arrays)}", code="bad-input")
    for tensor, array in zip(tensors, arrays):
        if array.dtype.name != tensor.dtype or array.size != tensor.elements:
            raise BridgeError(
                f"expected an input of {tensor.dtype} {list(tensor.shape)} (stored integers), got {array.dtype.name} "
                f"{list(array.shape)}",
                code="bad-input",
            )
    return tuple(array.reshape(tensor.shape) for tensor, array in zip(tensors, arrays))

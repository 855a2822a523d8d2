"""Where the time goes, operator by operator, from timed sub-graphs: LiteRT's Python interface has no profiler.

The model is cut after operator 1, after operator 2, …; each cut is a model of its own, ending where it was cut. All are timed in
turn, round after round, and operator k costs what cut k takes longer than cut k − 1 in the same round. That is an estimate: a
delegate may join an operator to the next, a cut may write its last tensor where the whole model would not, and a cost near the
noise can come out negative. The first cost holds the call itself, so the costs add up to the whole model's time.
"""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np

from edge_derm.bundle import check_model
from edge_derm.errors import TargetError
from edge_derm.measure.benchmark import bootstrap
from edge_derm.runtime import load_engine
from edge_derm.runtime.interpreter import InterpreterEngine
from firmware_bridge.graph import Graph
from firmware_bridge.summary import operator_macs

METHOD = (
    "timed sub-graphs: the model cut after each operator, all cuts in turn in one run, an operator's cost the difference of "
    "neighbouring cuts; an estimate, LiteRT's Python interface has no profiler"
)
ROUNDS, ROUNDS_LEAST, BUDGET_S = 200, 30, 30.0
COPIES = 3
OPERATORS_MOST = 500
_SUBGRAPHS, _SIGNATURES = 2, 7  # fields of table Model in TFLite's schema.fbs
_OUTPUTS, _OPERATORS = 2, 3  # of table SubGraph


def profile(model: bytes, *, backend: str = "litert", threads: int = 1, seed: int = 0) -> dict[str, Any]:
    """Cost of each operator in the order of execution.

    Args:
        model: .tflite bytes.
        backend: ``litert`` or ``tflite-runtime``.

    Returns:
        ``{method, rounds, whole_ms, operators[{index, name, output_shape, macs, cost_ms{value, low, high}, share}]}``; a cost is
        the median over rounds with its bootstrap 95 % interval, a share that of all costs.

    Raises:
        TargetError: ``profile-operators`` (more than 500), ``profile-cut`` (the file does not come apart).
        BundleError, BackendError: as ``load_engine``.
    """
    graph = check_model(model)
    if not 0 < len(graph.ops) <= OPERATORS_MOST:
        raise TargetError(
            f"profile: expected 1 to {OPERATORS_MOST} operators, got {len(graph.ops)}",
            code="profile-operators",
        )
    models = [cut(model, graph, k) for k in range(len(graph.ops))]
    cuts = [load(each, backend, threads, seed=seed) for _ in range(COPIES) for each in models]
    taken = best_copies(time_in_turn(cuts).reshape(-1, COPIES, len(models)))
    costs = np.diff(taken, axis=1, prepend=0.0)
    middles = np.median(costs, axis=0)
    total = float(middles.sum())
    rows = []
    for op, values, middle in zip(graph.ops, costs.T, middles):
        low, high = bootstrap(values, np.median, seed=seed)
        rows.append(
            {
                "index": op.index,
                "name": op.name,
                "output_shape": list(graph.tensor(op.outputs[0]).shape),
                "macs": operator_macs(graph, op),
                "cost_ms": {"value": float(middle), "low": low, "high": high},
                "share": float(middle) / total if total > 0 else None,
            }
        )
    return {
        "method": METHOD,
        "rounds": len(taken),
        "whole_ms": float(np.median(taken[:, -1])),
        "operators": rows,
    }


def cut(model: bytes, graph: Graph, last: int) -> bytes:
    """The model with its operators up to ``last``, whose first output is the cut's output.

    Vectors of a flatbuffer are only made shorter, in place: nothing moves. The result is read back before native code sees it.

    Raises:
        TargetError: ``profile-cut``.
    """
    data = bytearray(model)
    root = _u32(data, 0)
    subgraph = _follow(data, _vector(data, root, _SUBGRAPHS) + 4)
    outputs, operators = _vector(data, subgraph, _OUTPUTS), _vector(data, subgraph, _OPERATORS)
    end = graph.ops[last].outputs[0]
    struct.pack_into("<Ii", data, outputs, 1, end)
    struct.pack_into("<I", data, operators, last + 1)
    signatures = _field(data, root, _SIGNATURES)
    if signatures:  # they name the old outputs
        struct.pack_into("<I", data, _follow(data, signatures), 0)
    made = check_model(bytes(data), where=f"cut after operator {last}")
    same = [op.inputs for op in made.ops] == [op.inputs for op in graph.ops[: last + 1]]
    if not same or made.outputs != (end,) or made.inputs != graph.inputs:
        raise TargetError(
            f"profile: expected operators 0 to {last} and output {end}, got {len(made.ops)} operators and output "
            f"{made.outputs}: this file shares its tables; measure without --profile",
            code="profile-cut",
        )
    return bytes(data)


def load(model: bytes, backend: str, threads: int, *, seed: int) -> InterpreterEngine:
    """A cut on its engine, its input filled with noise."""
    engine = load_engine(model, backend=backend, threads=threads)
    assert isinstance(engine, InterpreterEngine)
    rng = np.random.default_rng(seed)

    def fill(*views: np.ndarray) -> None:
        for view in views:
            noise = (
                rng.uniform(-1, 1, view.shape) if view.dtype.kind == "f" else rng.integers(0, 127, view.shape)
            )
            view[...] = noise.astype(view.dtype)

    engine.run(fill)
    return engine


def time_in_turn(cuts: list[InterpreterEngine]) -> np.ndarray:
    """Durations in ms, [rounds, cuts]; each call after an untimed one, so that every cut finds its weights in the cache."""
    rows: list[list[float]] = []
    start = time.monotonic()
    while len(rows) < ROUNDS_LEAST or (len(rows) < ROUNDS and time.monotonic() - start < BUDGET_S):
        row = []
        for engine in cuts:
            engine.invoke()
            begun = time.perf_counter_ns()
            engine.invoke()
            row.append((time.perf_counter_ns() - begun) / 1e6)
        rows.append(row)
    return np.array(rows)


def best_copies(taken: np.ndarray) -> np.ndarray:
    """[rounds, copies, cuts] → [rounds, cuts]: of each cut the copy with the lowest median.

    Where its tensors happen to lie can make one copy of a cut a tenth slower for its whole life; the model as a whole has one place
    only, and no cut should be blamed for its own.
    """
    best = np.median(taken, axis=0).argmin(axis=0)
    return taken[:, best, np.arange(taken.shape[2])]


def _vector(data: bytearray, table: int, number: int) -> int:
    """Where the vector of a table's field starts: its length, then its items."""
    at = _field(data, table, number)
    if not at:
        raise TargetError(
            f"profile: expected field {number} in the file's tables, found none", code="profile-cut"
        )
    return _follow(data, at)


def _field(data: bytearray, table: int, number: int) -> int:
    """Where a field of a table stands; 0: it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    slot = 4 + 2 * number
    if slot >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + slot)[0]
    return table + offset if offset else 0


def _follow(data: bytearray, at: int) -> int:
    return at + _u32(data, at)


def _u32(data: bytearray, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])

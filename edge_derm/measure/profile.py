"""Where the time goes, operator by operator, from timed sub-graphs: LiteRT's Python interface has no profiler.

The model is cut after operator 1, after operator 2, …; each cut is a model of its own, ending where it was cut. All are timed in
turn, round after round, and operator k costs what cut k takes longer than cut k − 1 in the same round. That is an estimate: a
delegate may join an operator to the next, a cut may write its last tensor where the whole model would not, and a cost near the
noise can come out negative. The first cost holds the call itself, so the costs add up to the whole model's time. Operators on
constants alone (float16 weights made float32) have no row: the engine runs them once, before any image.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from edge_derm.bundle import check_model
from edge_derm.bundle.trim import trim
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


def profile(model: bytes, *, backend: str = "litert", threads: int = 1, seed: int = 0) -> dict[str, Any]:
    """Cost of each operator in the order of execution.

    Args:
        model: .tflite bytes.
        backend: ``litert`` or ``tflite-runtime``.

    Returns:
        ``{method, rounds, whole_ms, operators[{index, name, output_shape, macs, cost_ms{value, low, high}, share}]}``; a cost is
        the median over rounds with its bootstrap 95 % interval, a share that of all costs.

    Raises:
        TargetError: ``profile-operators`` (none or more than 500). ModelError: ``trim-shared`` (the file does not come apart).
        BundleError, BackendError: as ``load_engine``.
    """
    graph = check_model(model)
    if not 0 < len(graph.ops) <= OPERATORS_MOST:
        raise TargetError(
            f"profile: expected 1 to {OPERATORS_MOST} operators, got {len(graph.ops)}",
            code="profile-operators",
        )
    fixed = graph.constant_ops()
    timed = [op for op in graph.ops if op.index not in fixed]
    if not timed:
        raise TargetError(
            "profile: expected operators that depend on the input, got none", code="profile-operators"
        )
    models = [cut(model, graph, op.index) for op in timed]
    cuts = [load(each, backend, threads, seed=seed) for _ in range(COPIES) for each in models]
    taken = best_copies(time_in_turn(cuts).reshape(-1, COPIES, len(models)))
    costs = np.diff(taken, axis=1, prepend=0.0)
    middles = np.median(costs, axis=0)
    total = float(middles.sum())
    rows = []
    for op, values, middle in zip(timed, costs.T, middles):
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

    Raises:
        ModelError: ``trim-shared``.
    """
    return trim(model, graph, 0, last, inputs=graph.inputs, outputs=graph.ops[last].outputs[:1])


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

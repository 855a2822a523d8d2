"""Rows to a table, and which configurations nothing beats."""

from __future__ import annotations

import csv
import importlib.util
import io
import statistics
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from .. import files

Row = Mapping[str, Any]
TIMED = ("latency_p50_ms", "seconds")  # columns that differ from one run to the next; all others do not
CONFIGURATION = ("variant", "alpha", "size_px", "recipe")
INSTRUCTIONS = "instructions:"


def write(folder: Path, rows: Sequence[Row]) -> list[str]:
    """``results.csv``, and ``results.parquet`` where pyarrow is installed; the names written."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    files.write_text(folder / "results.csv", text.getvalue())
    if importlib.util.find_spec("pyarrow") is None:
        return ["results.csv"]
    import pyarrow
    import pyarrow.parquet

    with files.replace_file(folder / "results.parquet") as temporary:
        whole = [{name: row.get(name) for name in columns} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(whole), temporary)
    return ["results.csv", "results.parquet"]


def configurations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each configuration: the mean of its seeds' accuracies, their deviation, the largest of each cost.

    A configuration with a failed or unfinished cell is told by ``seeds``, which counts the finished ones.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.get("error") is None:
            groups.setdefault(tuple(row[name] for name in CONFIGURATION), []).append(row)
    return [_configuration(key, members) for key, members in groups.items()]


def _configuration(key: Sequence[Any], members: Sequence[Row]) -> dict[str, Any]:
    accuracies = [row["accuracy"] for row in members]
    costs = ["bytes", "macs", *(name for name in members[0] if name.startswith(INSTRUCTIONS))]
    return {
        **dict(zip(CONFIGURATION, key)),
        "seeds": len(members),
        "accuracy": statistics.fmean(accuracies),
        "accuracy_sd": statistics.stdev(accuracies) if len(members) > 1 else None,
        "balanced_accuracy": statistics.fmean(row["balanced_accuracy"] for row in members),
        **{name: _largest([row.get(name) for row in members]) for name in costs},
        "cells": [row["cell"] for row in members],
    }


def _largest(values: Sequence[int | None]) -> int | None:
    """None if one of them is not known."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def mark(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Set ``pareto`` in every configuration; the axes: accuracy (more is better), bytes, MACs, instructions (fewer are).

    A cost that is not known, because the target refused the model, counts as without end: it never wins by it.
    """
    costs = [
        name
        for name in (rows[0] if rows else ())
        if name in ("bytes", "macs") or name.startswith(INSTRUCTIONS)
    ]
    points = [
        [row["accuracy"], *(-np.inf if row[name] is None else -row[name] for name in costs)] for row in rows
    ]
    for row, best in zip(rows, unbeaten(np.array(points, float))):
        row["pareto"] = bool(best)
    return ("accuracy", *costs)


def unbeaten(points: np.ndarray) -> np.ndarray:
    """Which rows of ``points`` [N, axes], more is better, no other row equals everywhere and beats somewhere; bool [N]."""
    return np.array(
        [not ((points >= point).all(axis=1) & (points > point).any(axis=1)).any() for point in points], bool
    )

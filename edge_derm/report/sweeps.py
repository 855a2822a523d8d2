"""What a sweep found: the front, every configuration, what failed."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping, Sequence

from edge_derm.report import charts
from edge_derm.report.markup import facts, pair, section, table, text, tiles

Record = Mapping[str, Any]


def sweep(record: Record) -> str:
    """Tiles, a plot for each cost, the front, the rest, the failures."""
    rows: Sequence[Record] = record["configurations"]
    costs = [axis for axis in record["axes"] if axis != "accuracy"]
    top = tiles(
        {
            "cells": text(len(record["runs"])),
            "failed": text(record["failed"]),
            "configurations": text(len(rows)),
            "on the front": text(len(record["pareto"])),
        }
    )
    note = (
        f'<p class="soft">Data: {escape(str(record["data"]))}. A configuration is a variant, a width, a size and a recipe; its '
        "accuracy is the mean of its seeds, on images its models were not trained on. On the front: no other configuration is "
        f"as good in {escape(', '.join(map(name, record['axes'])))} and better in one of them. Few seeds and few images make "
        "close neighbours on the front a matter of chance: see the deviation and each cell's interval.</p>"
    )
    plots = [plot(rows, cost) for cost in costs]
    return section(
        "The sweep",
        top,
        note,
        pair(*plots),
        configurations("What nothing beats", record["pareto"], costs),
        configurations("Every configuration", rows, costs),
        failures(record["runs"]),
        facts("What all cells have in common", {**record["grid"], **_options(record["options"])}),
    )


def name(axis: str) -> str:
    """An axis for a person, in the unit of ``scaled``."""
    if axis.startswith("instructions:"):
        return axis.replace("instructions:", "M instructions on ")
    return {"bytes": "kB", "macs": "M MACs"}.get(axis, axis)


def scaled(row: Record, axis: str) -> float | None:
    """A cost in thousands of bytes, or millions of operations; None where it is not known."""
    return None if row[axis] is None else row[axis] / (1e3 if axis == "bytes" else 1e6)


def plot(rows: Sequence[Record], cost: str) -> str:
    """One cost against accuracy, a colour for each recipe, a line through what is best in these two."""
    points: dict[str, list[tuple[float, float]]] = {row["recipe"]: [] for row in rows}
    for row in rows:
        at = scaled(row, cost)
        if at is not None:
            points[row["recipe"]].append((at, row["accuracy"]))
    return charts.scatter(
        {recipe: ([x for x, _ in found], [y for _, y in found]) for recipe, found in points.items()},
        front=staircase([point for found in points.values() for point in found]),
        title=f"Accuracy by {name(cost)}",
        x_label=name(cost),
        y_label="accuracy",
    )


def staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, quality) those that are better than everything cheaper, by cost."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def configurations(caption: str, rows: Sequence[Record], costs: Sequence[str]) -> str:
    """A row for each configuration, the most accurate first."""
    head = [
        "variant",
        "α",
        "px",
        "recipe",
        "seeds",
        "accuracy",
        "± between seeds",
        "balanced",
        *map(name, costs),
        "Pareto",
    ]
    body = [
        (
            text(row["variant"]),
            text(row["alpha"]),
            text(row["size_px"]),
            text(row["recipe"]),
            text(row["seeds"]),
            f"{row['accuracy']:.3f}",
            "–" if row["accuracy_sd"] is None else f"{row['accuracy_sd']:.3f}",
            f"{row['balanced_accuracy']:.3f}",
            *map(_figure, (scaled(row, cost) for cost in costs)),
            "yes" if row["pareto"] else "",
        )
        for row in sorted(rows, key=lambda row: -row["accuracy"])
    ]
    return table(caption, head, body) if body else ""


def failures(rows: Sequence[Record]) -> str:
    """What failed and why; nothing where nothing did."""
    failed = [
        (text(row["cell"]), text(row["error"]), text(row["message"]))
        for row in rows
        if row["error"] is not None
    ]
    return table("Failed", ["cell", "error", "message"], failed) if failed else ""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _options(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{group} {key}": value for group, found in options.items() for key, value in found.items()}

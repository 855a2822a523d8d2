"""What ``bench --profile``, ``bench --soak`` and ``benchmarks/family.py`` measured, as tables and plots."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from edge_derm.report import charts
from edge_derm.report.markup import interval, section, table, text

Record = Mapping[str, Any]


def profile(found: Record | None) -> str:
    """Operators in the order of execution; nothing where none were profiled."""
    if not found:
        return ""
    rows = []
    for row in found["operators"]:
        cost = {key: 1000 * value for key, value in row["cost_ms"].items()}
        share = "–" if row["share"] is None else f"{100 * row['share']:.1f}"
        rows.append(
            (
                text(row["index"]),
                text(row["name"]),
                text("×".join(map(str, row["output_shape"]))),
                text(row["macs"]),
                interval(cost, 1) if cost["low"] > 0 else "not measurable",
                share if cost["low"] > 0 else "",
            )
        )
    note = f'<p class="soft">{text(found["method"])}. The whole: {found["whole_ms"]:.3f} ms.</p>'
    return note + table("Operators", ["#", "operator", "output", "MACs", "µs", "%"], rows)


def soak(found: Record | None) -> str:
    """The windows' medians over time; nothing where there was no soak."""
    if not found:
        return ""
    minutes = [window["at_seconds"] / 60 for window in found["windows"]]
    series = {
        name: (minutes, [window[f"{name}_ms"] for window in found["windows"]]) for name in ("p50", "p95")
    }
    throttled = {None: "not told by this machine", True: "yes", False: "no"}[found["throttled"]]
    note = (
        f"<p>{found['minutes']:.1f} minutes without a pause, {text(found['runs'])} runs: <b>{text(found['verdict'])}</b>, "
        f"last quarter over first {interval(found['drift'])}; throttled: {throttled}</p>"
    )
    return note + charts.lines(series, title="Latency over time", x_label="minutes", y_label="milliseconds")


def family(record: Record) -> str:
    """Every variant, width, size and recipe, and which of them nothing beats in both cost and quality."""
    rows = record["rows"]
    head = [
        "variant",
        "α",
        "px",
        "recipe",
        "bytes",
        "M MACs",
        "p50 ms",
        "ratio",
        "arm64 M instr.",
        "Cortex-M7 M instr.",
    ]
    head += ["arena bytes", "accuracy", "Pareto"]
    body = [
        (
            text(row["variant"]),
            text(row["alpha"]),
            text(row["size_px"]),
            text(row["recipe"]),
            text(row["bytes"]),
            f"{row['macs'] / 1e6:.2f}",
            f"{row['latency_ms']['p50']:.3f}",
            interval(row["ratio"]),
            _millions(row["instructions_arm64"]),
            _millions(row["instructions_cortex_m7"]),
            text(row["arena_bytes"]),
            interval(row["accuracy"]) if row["accuracy"] else "–",
            "yes" if row["pareto"] else "",
        )
        for row in rows
    ]
    note = f'<p class="soft">Latency and ratio: all models in turn in one run; the ratio is over {text(record["reference"])}.</p>'
    return section("The family", note, front(record), table("Every model", head, body))


def front(record: Record) -> str:
    """Cost against quality, one colour a recipe, the front as a line."""
    rows: Sequence[Record] = record["rows"]
    x, y = record["axes"]["cost"], record["axes"]["quality"]
    series = {
        recipe: (
            [cost(row, x) for row in rows if row["recipe"] == recipe],
            [quality(row, y) for row in rows if row["recipe"] == recipe],
        )
        for recipe in dict.fromkeys(row["recipe"] for row in rows)
    }
    best = sorted((cost(row, x), quality(row, y)) for row in rows if row["pareto"])
    return charts.scatter(series, front=best, title="What nothing beats in both", x_label=x, y_label=y)


def cost(row: Record, axis: str) -> float:
    """The figure on the x axis."""
    return float(row["latency_ms"]["p50"] if axis == "latency_ms" else row[axis])


def quality(row: Record, axis: str) -> float:
    """The figure on the y axis."""
    return float(row["accuracy"]["value"] if axis == "accuracy" else row[axis])


def _millions(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:.2f}"

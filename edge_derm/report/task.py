"""The two-class task: operating points, the ROC curve with readers and published points, the readers' table."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping

from edge_derm.report import charts
from edge_derm.report.markup import interval, pair, table, text

Record = Mapping[str, Any]


def task(record: Record) -> str:
    """Operating points, the ROC curve with readers and published points, the readers' table."""
    told = record.get("task")
    if not told:
        return ""
    against = f"{told['positive']} against {told['negative'] or 'all others'}"
    spots = {
        f"{name} (these images)": (1 - row["specificity"]["value"], row["sensitivity"]["value"])
        for name, row in (record.get("readers") or {}).items()
        if row["specificity"]["value"] is not None and row["sensitivity"]["value"] is not None
    }
    reference = told.get("reference")
    for name, point in (reference or {}).get("points", {}).items():
        spots[f"published: {name}"] = (1 - point["specificity"]["value"], point["sensitivity"]["value"])
    roc = told["roc"]
    curve = charts.shares(
        {"model": (roc["false_positive_rate"], roc["sensitivity"])} if roc["sensitivity"] else {},
        title=f"ROC: {against}",
        x_label="1 − specificity",
        y_label="sensitivity",
        spots=spots,
    )
    points = table(
        f"{against}: operating points, thresholds chosen on {told['chosen_on']}",
        ["rule", "sensitivity", "specificity", "PPV"],
        [
            (
                text(name.replace("_", " ")),
                interval(p["sensitivity"], 2),
                interval(p["specificity"], 2),
                interval(p["ppv"], 2),
            )
            for name, p in (record.get("operating_points") or {}).items()
        ],
    )
    caveat = (
        f'<p class="soft">Published points: {escape(reference["source"])}; {escape(reference["caveat"])}.</p>'
        if reference
        else ""
    )
    area = f"<p>Area under the curve {interval(told['auroc'])}, {text(told['n'])} images.</p>"
    return "<h3>Two classes</h3>" + pair(curve + caveat, area + points) + readers(record)


def readers(record: Record) -> str:
    """Every reader and all pooled against the model."""
    rows, study = record.get("readers"), record.get("reader_study")
    if not rows or not study:
        return ""
    body = [
        (
            text(name),
            text(row["n"]),
            interval(row["sensitivity"], 2),
            interval(row["specificity"], 2),
            interval(row["model_sensitivity"], 2),
            interval(row["model_specificity"], 2),
            *(
                f"{row['mcnemar'][part]['p']:.3g} <span class='soft'>({row['mcnemar'][part]['p_holm_study']:.3g})</span>"
                for part in ("positives", "negatives", "all")
            ),
        )
        for name, row in rows.items()
    ]
    head = ["reader", "decisions", "sensitivity", "specificity", "model: sensitivity", "model: specificity"]
    return (
        table("Readers against the model", [*head, "p positives", "p negatives", "p all"], body)
        + f'<p class="soft">p: exact McNemar on paired correctness, in brackets adjusted over all {text(study["tests"])} tests '
        f"({escape(study['multiplicity'].partition(':')[0])}). Pooled: {escape(study['pooled'])}. "
        f"Model: {escape(study['model'])}.</p>"
    )

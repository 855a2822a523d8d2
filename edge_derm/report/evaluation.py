"""How good a model is on labelled images: metrics, classes, curves, subgroups."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping, Sequence

from edge_derm.report import charts
from edge_derm.report.markup import interval, pair, section, table, text, tiles
from edge_derm.report.task import task

Record = Mapping[str, Any]


def evaluation(record: Record) -> str:
    """Metrics, confusion, ROC, reliability."""
    names = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "ece": "calibration error",
        "brier": "Brier score",
    }
    promised = {"coverage": "sets hold the truth", "answered": "images answered", "risk": "of these wrong"}
    names |= {key: title for key, title in promised.items() if record.get(key)}
    top = tiles({title: interval(record[key]) for key, title in names.items()})
    areas = {
        label: (curve["false_positive_rate"], curve["sensitivity"])
        for label, curve in record["roc"].items()
        if curve["sensitivity"]
    }
    roc = charts.shares(areas, title="ROC curves by class", x_label="1 − specificity", y_label="sensitivity")
    bins = record["reliability"]
    reliability = charts.shares(
        {"": ([b["confidence"] for b in bins], [b["accuracy"] for b in bins])} if bins else {},
        title="Reliability: accuracy by confidence",
        x_label="stated confidence",
        y_label="accuracy",
        points=True,
    )
    note = (
        f'<p class="soft">{text(record["images"])} images ({escape(str(record["part"]))}); 95 % intervals in brackets.'
        f" The calibration error is {record['ece_debiased']:.3f} less what chance adds; a perfect model shows "
        f"{record['ece_noise']:.3f} on as many images.</p>"
    )
    return section(
        "How good is it?",
        top,
        note,
        _classes(record),
        pair(confusion(record), roc),
        pair(reliability),
        task(record),
        _groups(record),
        shift(record),
    )


def _classes(record: Record) -> str:
    return table(
        "By class, against the rest",
        ["class", "n", "sensitivity", "specificity", "PPV", "AUROC"],
        [
            (
                text(label),
                text(row["n"]),
                interval(row["sensitivity"], 2),
                interval(row["specificity"], 2),
                interval(row["ppv"], 2),
                interval(record["auroc"][label]),
            )
            for label, row in record["per_class"].items()
        ],
    )


def confusion(record: Record) -> str:
    """Rows are the truth; shade is the share of the row."""
    labels: Sequence[str] = record["labels"]
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    body = ""
    for label, row in zip(labels, record["confusion"]):
        total = sum(row) or 1
        cells = "".join(
            f'<td style="background: color-mix(in srgb, var(--accent) {round(70 * n / total)}%, transparent)">{n}</td>'
            for n in row
        )
        body += f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    return (
        f'<div class="scroll"><table class="confusion"><caption>Confusion matrix: rows are the truth, columns the decision'
        f"</caption><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _groups(record: Record) -> str:
    tables = [
        table(
            f"Accuracy by {key}",
            [key, "n", "accuracy"],
            [(text(name), text(value["n"]), interval(value)) for name, value in rows.items()],
        )
        for key, rows in (record.get("subgroups") or {}).items()
    ]
    return "<h3>Subgroups</h3>" + pair(*tables) if tables else ""


def shift(record: Record) -> str:
    """Where accuracy differs by more than chance."""
    rows = record.get("shift") or {}
    if not rows:
        return ""
    body = [
        (
            text(key.replace("_", " ")),
            text(r["lowest"]),
            text(r["highest"]),
            f"{r['difference']:.3f}",
            f"{r['p_holm']:.3g}",
        )
        for key, r in rows.items()
    ]
    caveat = record.get("skin_tone_caveat")
    return table(
        "Differences between subgroups",
        ["by", "lowest", "highest", "difference in accuracy", "p, adjusted"],
        body,
    ) + (
        '<p class="soft">Permutation test, Holm-adjusted. Groups also differ in their diagnoses: a difference says where to look, '
        f"not why it is there.{' Skin: ' + escape(caveat) + '.' if caveat else ''}</p>"
    )

"""What ``compress`` made of a run, and what each rounding of an int8 file costs."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping, Sequence

from edge_derm.report.markup import facts, pair, section, table, text, tiles

Record = Mapping[str, Any]
MOST = 12  # rows of the table of roundings


def compression(record: Record) -> str:
    """Before and after, and the choices."""
    before, after = record["parent"], record["validation"]
    top = tiles(
        {
            "of the MACs": f"{record['macs'] / before['macs']:.0%}",
            "of the parameters": f"{record['parameters'] / before['parameters']:.0%}",
            "weights that are zero": f"{record['sparsity']:.0%}",
            "decided as its parent": _share(record.get("agreement")),
            "minutes": f"{record['seconds'] / 60:.1f}",
        }
    )
    rows = [
        (name, text(before["validation"][key]), text(after[key]))
        for name, key in (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy"))
    ]
    rows += [
        ("M MACs", f"{before['macs'] / 1e6:.2f}", f"{record['macs'] / 1e6:.2f}"),
        ("parameters", text(before["parameters"]), text(record["parameters"])),
    ]
    figures = table("On the validation images", ["", "before", "after"], rows)
    chosen = {key: value for key, value in record["settings"].items() if value not in (None, (), [])}
    return section(f"Compressed: {record['method']}", top, pair(figures, facts("Choices", chosen)))


def roundings(rows: Sequence[Record]) -> str:
    """The roundings that cost most, each alone; nothing where none were measured."""
    if not rows:
        return ""
    worst = sorted(rows, key=lambda row: -row["margin_change"])[:MOST]
    read = (
        '<p class="soft">Each row rounds one kernel or one activation to 8 bits, to nearest, and leaves all else in float. Change '
        "of the margin: how far the lead of the first class over the second moves, in logits, on average.</p>"
    )
    return read + table(
        f"What each rounding costs alone: the {len(worst)} worst of {len(rows)}",
        ["layer", "rounded", "decided as in float", "change of the margin"],
        [
            (
                escape(str(row["layer"])),
                escape(str(row["what"])),
                _share(row["agreement"]),
                f"{row['margin_change']:.4f}",
            )
            for row in worst
        ],
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"

"""The section of an ``audit`` record: what one small picture does to the model, seen and counted."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping, Sequence

from edge_derm.report import charts
from edge_derm.report.markup import interval, section, table, text, tiles

Record = Mapping[str, Any]


def audit(record: Record) -> str:
    """Worst figures first, then every row, the pictures, and what helps."""
    rows = record["rows"]
    free = [row for row in rows if row["targeted"] is None]
    worst = max(free, key=lambda row: row["fooling_rate"]["value"])
    top = tiles(
        {
            "answers changed by the worst": f"{worst['fooling_rate']['value']:.0%}",
            "by random noise of that norm": f"{worst['control']['fooling_rate']['value']:.0%}",
            "it makes the model say": escape(
                " ".join(f"{k} {v:.0%}" for k, v in list(worst["dominant"].items())[:1])
            ),
            "accuracy without / with it": f"{worst['accuracy']['clean']['value']:.2f} / "
            f"{worst['accuracy']['perturbed']['value']:.2f}",
        }
    )
    note = (
        f'<p class="soft">{text(record["images"])} images ({escape(str(record["part"]))}) that nothing was crafted from; '
        "true labels are used for accuracies only. A control is random noise of the same norm, the kind that fools most. "
        "Success is over all images, so it starts at the share that has the label anyway.</p>"
    )
    told = "".join(f'<p class="notice">{escape(str(note))}</p>' for note in record.get("notes") or [])
    parts = [top, told, note, table_of(rows), gallery(record.get("pictures") or [])]
    parts += [channel_table(record.get("channels")), defence_table(record.get("defences"))]
    parts += [detector_table(record.get("detector")), corruption_chart(record.get("corruptions"))]
    return section("Universal perturbations", *parts)


def goal(row: Record) -> str:
    return "any change" if row["targeted"] is None else f"to {row['targeted']}"


def table_of(rows: Sequence[Record]) -> str:
    """Every row with its interval and its control."""
    return table(
        "Every perturbation, everywhere the model runs",
        [
            "where",
            "norm",
            "from",
            "goal",
            "changed",
            "reached",
            "control",
            "more than control",
            "PSNR dB",
            "says",
        ],
        [
            (
                text(row["where"]),
                f"L{text(row['norm'])}",
                text(row["source"]),
                escape(goal(row)),
                interval(row["fooling_rate"], 2),
                interval(row["success_rate"], 2) if row["success_rate"] else "–",
                f"{control(row)} <span class='soft'>{escape(row['control']['kind'])}</span>",
                interval(row["over_control"], 2),
                f"{row['psnr_db']:.1f}",
                escape(", ".join(f"{k} {v:.0%}" for k, v in list(row["dominant"].items())[:2])),
            )
            for row in rows
        ],
    )


def control(row: Record) -> str:
    key = "fooling_rate" if row["targeted"] is None else "success_rate"
    return f"{row['control'][key]['value']:.2f}"


def gallery(pictures: Sequence[Record]) -> str:
    """The perturbations, and images with and without them."""
    figures = "".join(
        f'<figure><img alt="{escape(name, quote=True)}" src="{escape(picture["png"], quote=True)}">'
        f"<figcaption>{escape(name)}; largest value {picture['largest']:.1f} of 255. Left: the perturbation, enlarged; "
        "then images without and with it.</figcaption></figure>"
        for picture in pictures
        for name in [f"L{picture['norm']}, from {picture['source']} images, {goal(picture)}"]
        if str(picture["png"]).startswith("data:image/png;base64,")
    )
    return f"<h3>What they look like</h3>{figures}" if figures else ""


def channel_table(found: Record | None) -> str:
    """What is left of a perturbation behind a camera's channel."""
    return by_column(found, "channel", "Share of answers changed behind a channel", "none") if found else ""


def by_column(found: Record, key: str, caption: str, first: str) -> str:
    rows = found["rows"]
    columns = list(dict.fromkeys((row["source"], row["norm"]) for row in rows))
    cells = {(row[key], row["source"], row["norm"]): row for row in rows}
    names = list(dict.fromkeys(row[key] for row in rows))
    return table(
        f"{caption} ({found['where']})",
        [key, *(f"{source} L{norm}" for source, norm in columns), "clean balanced accuracy"],
        [
            (
                escape(f"{name} (8-bit rounding alone)" if name == first else name),
                *(f"{cells[name, *column]['fooling_rate']['value']:.2f}" for column in columns),
                f"{cells[name, *columns[0]]['balanced_clean']:.3f}",
            )
            for name in names
        ],
    )


def defence_table(found: Record | None) -> str:
    """Input transforms: what they leave, what they cost."""
    if not found:
        return ""
    cost = table(
        "What each transform costs on this machine",
        ["transform", "ms an image", "of one inference"],
        [(escape(name), f"{c['ms']:.3f}", f"{c['share_of_model']:.0%}") for name, c in found["cost"].items()],
    )
    warning = (
        '<p class="soft">The attacker here did not know of the transform. One who does can aim through it: a transform that '
        "helps in this table is no protection by itself.</p>"
    )
    return by_column(found, "channel", "Transforms in front of the model", "none") + warning + cost


def detector_table(found: Record | None) -> str:
    """A matched filter for known directions."""
    if not found or "rows" not in found:
        return f'<p class="soft">No detector: {escape(str(found["reason"]))}.</p>' if found else ""
    labels = found["labels"]
    return table(
        f"Flagged by the detector (false alarms {found['false_alarms']['value']:.1%}, {found['directions']} directions known)",
        ["perturbation", "known", "unknown (all others known)", "moved by 1 px", "behind JPEG 50"],
        [
            (
                escape(
                    f"L{row['norm']} {row['source']}, "
                    + ("any change" if row["target"] is None else f"to {labels[row['target']]}")
                ),
                interval(row["known"], 2),
                interval(row["unknown"], 2),
                text(row["through"].get("shift 1 px")),
                text(row["through"].get("jpeg 50")),
            )
            for row in found["rows"]
        ],
    )


def corruption_chart(found: Record | None) -> str:
    """Error by severity, and its mean by place."""
    if not found:
        return ""
    rows, places = found["rows"], list(found["mean_error"])
    names = list(dict.fromkeys(row["corruption"] for row in rows))
    last = places[-1]
    curves = charts.lines(
        {
            name: (
                [row["severity"] for row in rows if row["corruption"] == name and row["where"] == last],
                [row["error"]["value"] for row in rows if row["corruption"] == name and row["where"] == last],
            )
            for name in names
        },
        title=f"Error under corruptions of the real world ({last})",
        x_label="severity",
        y_label="share of wrong answers",
        points=True,
    )
    means = table(
        "Mean corruption error",
        ["where", "clean error", "mean over corruptions and severities", "relative to the first"],
        [
            (
                escape(place),
                interval(found["clean"][place]),
                f"{found['mean_error'][place]:.3f}",
                text(found["relative"][place]),
            )
            for place in places
        ],
    )
    return curves + means

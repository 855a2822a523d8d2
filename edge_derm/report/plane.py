"""The information plane: where models stand, how they got there, what they know of each class and would with more images."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping

from edge_derm.report import charts
from edge_derm.report.markup import interval, pair, section, table, text

Record = Mapping[str, Any]

READ_IT = (
    "<p>Across: how much of the picture the model's output keeps, I(X;T). Up: how much that says of the class, I(T;Y), at most "
    "H(Y). Higher is better; of two as high, the one further left keeps less that has nothing to do with the class. Estimates of "
    "few images are too high: they are shown corrected, with what shuffled labels would have given.</p>"
)


def plane(record: Record) -> str:
    """The whole section."""
    points = record["points"]
    names = shortest([row["model"] for row in points])
    here = charts.lines(
        {names[row["model"]]: ([row["i_xt"]], [row["i_ty_corrected"]]) for row in points},
        title="The information plane",
        x_label="I(X;T), bits",
        y_label="I(T;Y) corrected, bits; top: H(Y)",
        x_range=(0.0, max(row["i_xt"] for row in points)),
        y_range=(min(0.0, *(row["i_ty_corrected"] for row in points)), record["h_y"]),
        points=True,
    )
    note = (
        f'<p class="soft">{text(record["images"])} images ({escape(str(record["part"]))}), the same for every model; '
        f'{text(record["bins"])} bins of each class probability; H(Y) is {record["h_y"]:.3f} bits. After Cheng et al., '
        "Entropy 2019; bins, interval and saturation are ours.</p>"
    )
    return section(
        "What do its answers keep, and what do they say?",
        READ_IT,
        note,
        ranked(record, names),
        pair(here, paths(points, names)),
        by_class(record, names),
        starts(record, names),
    )


def shortest(paths: list[str]) -> dict[str, str]:
    """The last part of each path, or the whole where two end alike."""
    ends = [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]
    return {path: end if ends.count(end) == 1 else path for path, end in zip(paths, ends)}


def ranked(record: Record, names: Mapping[str, str]) -> str:
    points = {row["model"]: row for row in record["points"]}
    rows = []
    for row in record["ranking"]:
        point = points[row["model"]]
        rows.append(
            (
                escape(names[row["model"]]),
                interval(row["corrected"]),
                text(point["i_ty"]),
                f"{point['shuffled']['mean']:.3f} <span class='soft'>({point['bias']:.3f})</span>",
                text(point["i_xt"]),
                interval(row["behind"]) if row["behind"] else "",
                f"{row['accuracy']:.3f}",
                f"{row['balanced_accuracy']:.3f}",
            )
        )
    head = [
        "model",
        "I(T;Y) corrected",
        "plug-in",
        "shuffled (theory)",
        "I(X;T)",
        "behind the first",
        "accuracy",
        "balanced",
    ]
    return table("Bits, most first; 95 % intervals over lesions", head, rows)


def paths(points: list[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """The way while training, of the models that recorded it."""
    told = {
        names[row["model"]]: (
            [at["i_xt"] for at in row["path"]],
            [at["i_ty_corrected"] for at in row["path"]],
        )
        for row in points
        if row["path"]
    }
    if not told:
        return ""
    samples = max(row["path"][-1]["samples"] for row in points if row["path"])
    return charts.lines(
        told,
        title=f"The way there, on {samples} validation images",
        x_label="I(X;T), bits",
        y_label="I(T;Y) corrected, bits",
        points=True,
        spots={f"where {name} began": (xs[0], ys[0]) for name, (xs, ys) in told.items()},
    )


def by_class(record: Record, names: Mapping[str, str]) -> str:
    """What is known of each class: against training images where models of several numbers were given, else by the best model."""
    drawn = [row for row in record["classes"] if row["reached"]]
    first = record["ranking"][0]["model"]
    rows = drawn or [row for row in record["classes"] if row["curve"][-1]["model"] == first]
    head = [
        f"class ({names[rows[0]['curve'][-1]['model']]})" if rows else "class",
        "images judged",
        "training images",
        "I(T;Y_c), bits",
        "share of the ceiling reached",
        "images missing for 95 %",
    ]
    told = table("Is it this class?", head, [class_row(row) for row in rows])
    if not drawn:
        return told + '<p class="soft">How many images are missing: give runs made with train --share.</p>'
    curves = {
        row["label"]: (
            [at["images"] / row["curve"][-1]["images"] for at in row["curve"]],
            [at["bits"] / row["h"] for at in row["curve"]],
        )
        for row in drawn
    }
    chart = charts.lines(
        curves,
        title="What is known of a class against its training images",
        x_label="training images, as a share of the most",
        y_label="I(T;Y_c) / H(Y_c)",
        points=True,
    )
    return pair(told, chart)


def class_row(row: Record) -> tuple[str, ...]:
    """The cells of one class."""
    last = row["curve"][-1]
    missing = "–" if row["missing"] is None else f"{row['missing']:.0f}"
    rising = row["reached"] and row["missing"] is None
    return (
        escape(row["label"]),
        text(row["judged"]),
        text(last["images"]),
        f"{last['bits']:.3f} <span class='soft'>of {row['h']:.3f}</span>",
        interval(row["reached"], 2) if row["reached"] else "–",
        "still rising" if rising else missing,
    )


def starts(record: Record, names: Mapping[str, str]) -> str:
    """What pretrained weights brought; nothing where no two runs differ in their start alone."""
    if not record["starts"]:
        return ""
    rows = [
        (
            escape(names[row["pretrained"]]),
            escape(names[row["random"]]),
            interval(row["gain"]),
            "never" if row["caught_up_epoch"] is None else f"{row['caught_up_epoch']:.1f}",
        )
        for row in record["starts"]
    ]
    head = [
        "pretrained",
        "from scratch",
        "I(T;Y) gained, bits",
        "epoch at which it was where the other was after one",
    ]
    return table("Pretrained against random start", head, rows)

"""``infoplane``: what the outputs of trained models keep of the picture and say of the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import choosing
from ..trust.infoplane import BINS, SAMPLES
from . import options as shared
from .judge import figure


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|BUNDLE…")
@shared.data_option
@shared.setting(
    "--bins", click.IntRange(2, 1000), BINS, "Of each class probability; more need many more images."
)
@shared.setting(
    "--samples",
    click.IntRange(20),
    SAMPLES,
    "Images at most; points of different N are not comparable.",
    metavar="N",
)
@shared.judged_options
def infoplane(models: tuple[Path, ...], json_file: str | None, **choices: Any) -> None:
    """Place models on the information plane, rank them, and say how many images each class still needs.

    \b
    Example:  edge-derm infoplane runs/d1 runs/d1-half runs/d1-quarter d1.bundle --data images/
    """
    record = choosing.survey(models, **choices)
    shared.emit(record, json_file, text(record))


def text(record: dict[str, Any]) -> str:
    """A line a model, then what is known of each class and what pretraining brought."""
    lines = [
        f"{record['images']} images ({record['part']}), {record['bins']} bins, H(Y) {record['h_y']:.3f} bits; "
        "I(T;Y) corrected for its bias, I(X;T), and I(T;Y) of shuffled labels"
    ]
    points = {row["model"]: row for row in record["points"]}
    for row in record["ranking"]:
        point = points[row["model"]]
        lines.append(
            f"  {row['rank']}. {row['model']}: {figure(row['corrected'])}, {point['i_xt']:.3f}, {point['shuffled']['mean']:.3f}; "
            f"accuracy {row['accuracy']:.3f}, balanced {row['balanced_accuracy']:.3f}"
        )
        if point["i_ty_corrected"] <= point["shuffled"]["high"]:
            lines.append("     too few images for so many symbols: use fewer --bins or more images")
    lines += [f"  {line}" for row in record["classes"] if (line := need(row))]
    for row in record["starts"]:
        lines.append(f"  pretrained weights: {figure(row['gain'])} bits more than {row['random']}")
    return "\n".join(lines)


def need(row: dict[str, Any]) -> str | None:
    """Of a class whose curve has been drawn: how far it is, and what is missing."""
    if row["reached"] is None:
        return None
    now = row["curve"][-1]["images"]
    if row["needed"] is None:
        return f"{row['label']}: {row['reason']}"
    more = f"about {row['missing']:.0f} more for 95 %" if row["missing"] else "more of its kind add little"
    return f"{row['label']}: {now} images give {figure(row['reached'])} of the {row['ceiling']:.3f} bits in reach: {more}"

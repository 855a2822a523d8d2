"""``uncertainty``: what each measure of uncertainty is worth on given images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import doubting
from . import options as shared
from .judge import figure

SAMPLINGS = {
    "plain": "one pass",
    "mc": "Monte-Carlo dropout",
    "tta": "views",
    "mc_tta": "dropout and views",
    "ensemble": "ensemble",
    "features": "feature distance",
}


@click.command()
@shared.bundle_argument
@shared.data_option
@click.option(
    "--ood",
    metavar="DIR",
    help="Foreign images: classes the model does not know (as --data: those of its own classes it does not know).",
)
@shared.passes_option(None, "Passes under dropout (default: 32 where the model was trained with it).")
@shared.views_option(8, "Views of an image (default: 8).")
@shared.dropout_rate_option
@click.option(
    "--dropout-depth",
    "depth",
    callback=shared.blocks,
    default=None,
    metavar="head|last-K",
    help="Blocks that dropout reaches back over (default: as trained).",
)
@shared.path_option(
    "--ensemble",
    "BUNDLE",
    "A further bundle with the same labels, asked beside this one; more than once for more of them.",
    multiple=True,
)
@shared.judged_options
def uncertainty(bundle: Path, json_file: str | None, **choices: Any) -> None:
    """Which measure finds the wrong answers, and which the foreign images.

    \b
    Example:  edge-derm uncertainty d1.bundle --data images/ --ood caltech101/
    """
    record = doubting.assess(bundle, **choices)
    shared.emit(record, json_file, text(record))


def text(record: dict[str, Any]) -> str:
    """A line a measure: finding errors, the risk at 80 % coverage, finding foreign images."""
    lines = [
        f"{record['images']} images ({record['part']}), accuracy {record['accuracy']:.3f}; AUROC for finding wrong answers, "
        "share of the risk gone when the least sure fifth is not answered, AUROC for finding foreign images"
    ]
    foreign = (record["ood"] or {}).get("auroc", {})
    for sampling, rows in record["metrics"].items():
        lines.append(f"  {SAMPLINGS[sampling]}")
        for name, row in rows.items():
            strange = foreign.get(sampling, {}).get(name)
            lines.append(
                f"    {name.replace('_', ' '):20} {figure(row['errors'])}  {figure(row['reduction_at_80'])}"
                + (f"  {figure(strange)}" if strange else "")
            )
    return "\n".join(lines)

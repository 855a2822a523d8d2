"""``audit``: universal adversarial perturbations, replayed on the file that is deployed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from .. import auditing
from . import options as shared

NORMS = {"2": (2.0,), "inf": (math.inf,), "both": (2.0, math.inf)}


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN|BUNDLE")
@shared.data_option
@click.option(
    "--proxy", metavar="DIR", help="Natural images, for an attacker who never saw the medical data."
)
@shared.path_option("--against", "RUN", "The float parent of a BUNDLE (default: the file's own weights).")
@click.option(
    "--target-class",
    "target_classes",
    multiple=True,
    metavar="CLASS",
    help="Also make perturbations towards this class (may be repeated).",
)
@click.option("--norm", type=click.Choice(list(NORMS)), default="both", show_default=True)
@shared.setting(
    "--zeta",
    click.FloatRange(0, 1, min_open=True, max_open=True),
    0.04,
    "Norm of a perturbation as a share of the images' mean norm.",
)
@shared.setting("--images", click.IntRange(1), 600, "At most so many to judge on.")
@shared.setting("--crafting", click.IntRange(1), 1000, "At most so many to craft from.")
@shared.setting("--passes", click.IntRange(1), 3, "Over those images.")
@shared.setting("--batch", click.IntRange(1), 16, "Images a step (1: the paper's order, slow).")
@shared.setting(
    "--confidence",
    click.FloatRange(0, 1),
    0.95,
    "Go on with an image until the model is so sure (0: until its label flips, the paper's rule).",
)
@shared.setting(
    "--enough",
    click.FloatRange(0, 1),
    1.0,
    "End a crafting once more than this share of the last 128 images was moved before it acted (1: never).",
)
@click.option(
    "--aim/--no-aim",
    default=True,
    show_default=True,
    help="Without a target, also try to push every image towards one class, and keep what moves more.",
)
@shared.setting("--draws", click.IntRange(1), 5, "Draws of each random control.")
@click.option(
    "--rows-only",
    is_flag=True,
    help="Only the table: no channels, defences, detector, corruptions and pictures.",
)
@shared.gate_option
@shared.path_option("--out", "DIR", "Keep the perturbations and the detector.")
@shared.part_option
@shared.seed_option
@shared.json_option
def audit(model: Path, norm: str, json_file: str | None, **choices: Any) -> None:
    """How easily one small picture, added to every image, changes what the model says.

    \b
    Example:  edge-derm audit runs/d1 --data images/ --proxy photos/ --target-class mel
    """
    record, failure = auditing.audit(model, norms=NORMS[norm], say=shared.say, **choices)
    shared.emit(record, json_file, table(record))
    if failure:
        raise failure


def table(record: dict[str, Any]) -> str:
    """One line a row."""
    lines = [
        f"{record['images']} images ({record['part']}); rate (95 % interval), and the hardest random control of the same norm"
    ]
    for row in record["rows"]:
        rate = row["fooling_rate"] if row["targeted"] is None else row["success_rate"]
        random = row["control"]["fooling_rate" if row["targeted"] is None else "success_rate"]
        goal = "any change" if row["targeted"] is None else f"to {row['targeted']}"
        top = next(iter(row["dominant"].items()))
        lines.append(
            f"  {row['where']:16} L{row['norm']:<3} {row['source']:8} {goal:10} {rate['value']:.3f} "
            f"({rate['low']:.3f} to {rate['high']:.3f})  {row['control']['kind']} {random['value']:.3f}"
            f"  says {top[0]} {top[1]:.0%}"
        )
    return "\n".join(lines + [f"  note: {note}" for note in record["notes"]])

"""``calibrate``: what a bundle needs to judge itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import calibrating
from ..report.trust import short_of
from . import options as shared
from .judge import figure


@click.command()
@shared.bundle_argument
@click.option(
    "--data",
    metavar="DIR",
    help="Labelled images: a folder per class, images/ + metadata.csv, or synthetic[:N].",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Fit and tell (--json FILE); the bundle stays as it is. For boards, whose bundle is read-only.",
)
@shared.path_option(
    "--accept",
    "FILE",
    "Instead of --data: write what --dry-run --json FILE fitted into the bundle; then sign it.",
)
@shared.setting(
    "--miscoverage",
    click.FloatRange(0, 1, min_open=True, max_open=True),
    0.1,
    "Share of images whose prediction set may miss the truth.",
)
@shared.setting(
    "--risk",
    click.FloatRange(0, 1),
    0.1,
    "Share of the given answers that may be wrong; the model abstains below the confidence that keeps it.",
)
@shared.setting(
    "--doubt",
    click.FloatRange(0, 0.5),
    0.1,
    "Chance that the risk is not kept on new images; 0 takes the risk as counted, without a bound.",
)
@shared.setting(
    "--scaling",
    click.Choice(["auto", "temperature", "prior", "shift", "vector"]),
    "auto",
    "prior: also the class frequencies. shift: a shift a class. vector: a scale as well, and decisions move. "
    "auto: the simplest that does, out of the first three.",
)
@click.option(
    "--move-decisions",
    is_flag=True,
    help="Name the most probable class. Default: the network's own answer stays the one that is named.",
)
@shared.setting(
    "--score",
    click.Choice(["lac", "aps", "raps"]),
    "lac",
    "Prediction sets: smallest on average (lac), or adapting to hard images (aps, raps).",
)
@shared.setting(
    "--strange",
    click.FloatRange(0, 0.5),
    0.05,
    "Share of its own kind of images that predict may call foreign, by the distance of features; 0: leave that out.",
)
@click.option("--by-class", is_flag=True, help="Prediction sets that keep the promise for each class.")
@click.option(
    "--part",
    default="auto",
    show_default=True,
    metavar="PART",
    help="auto: validation, never test; else all.",
)
@shared.seed_option
@shared.json_option
def calibrate(
    bundle: Path, data: str | None, accept: Path | None, json_file: str | None, **choices: Any
) -> None:
    """Fit probabilities, prediction sets and the abstain threshold; check each by cross-fitting over lesions.

    \b
    Example:  edge-derm calibrate d1.bundle --data images/ --miscoverage 0.1
    """
    if (data is None) == (accept is None):
        raise click.UsageError("expected --data DIR or --accept FILE, one of them")
    if accept is not None:
        record = calibrating.accept(bundle, record=accept)
    else:
        record = calibrating.calibrate(bundle, data=str(data), **choices)
    shared.emit(record, json_file, fitted(bundle, record))


def moved(record: dict[str, Any]) -> list[str]:
    """What moving the decisions does to each class."""
    found = [
        f"{label} {row['before']['value']:.2f} to {row['after']['value']:.2f}"
        for label, row in record["sensitivity"].items()
        if row["before"]["value"] is not None
    ]
    return [
        f"  {record['decisions_changed']:.1%} of the DECISIONS CHANGE: accuracy {record['accuracy_before']:.3f} to "
        f"{record['accuracy_after']:.3f}, balanced accuracy {record['balanced_accuracy_before']:.3f} to "
        f"{record['balanced_accuracy_after']:.3f}",
        f"  share of each class found: {', '.join(found)}",
    ]


def fitted(bundle: Path, record: dict[str, Any]) -> str:
    """What was fitted and what it is worth, in a few lines."""
    threshold, selective, splits = record["abstain_threshold"], record["selective"], record["coverage_splits"]
    lines = [
        f"{bundle}: {record['scaling']} scaling, temperature {record['temperature']:.3f}, "
        f"conformal quantile {record['conformal_quantile']:.4f} ({record['score']})",
        f"  calibration error {record['ece_before']:.4f} before, {record['ece_after']:.4f} after "
        f"({record['ece_debiased']:.4f} less what chance adds; a perfect model shows {record['ece_noise']:.4f} "
        f"on {record['images']['check']} images)",
        f"  prediction sets hold the truth for {figure(record['coverage'])}, {record['mean_set_size']:.2f} classes each",
        f"  over {splits['splits']} random splits for {splits['mean']:.3f} on average ({splits['low']:.3f} to "
        f"{splits['high']:.3f}; {splits['spread']:.3f} apart, {splits['expected_spread']:.3f} is chance)",
    ]
    rare = short_of(record)
    if rare:
        lines.append(
            f"  {', '.join(rare)}: held less often than promised, which is for all images together (--by-class: for each class)"
        )
    if threshold is None:
        lines.append(
            f"  never abstains: no threshold keeps the wrong answers within {record['risk']:g}; "
            "allow more (--risk) or give more images"
        )
    else:
        lines.append(
            f"  abstains below {threshold:.4f}: answers {figure(selective['answered'])}, of these wrong {figure(selective['risk'])}"
        )
    if record["decisions_changed"]:
        lines += moved(record)
    elif record["weights"]:
        lines.append(
            "  no decision changes: the label named stays the network's own, the probability is how often it is right"
        )
    if record["foreign"]:
        lines.append(
            f"  calls an image foreign beyond a feature distance of {record['foreign']['threshold']:.3f} "
            f"({record['foreign']['known_images']} known images kept)"
        )
    if record["signature_removed"]:
        lines.append("  the signature no longer fitted and was removed: sign the bundle again")
    return "\n".join(lines)

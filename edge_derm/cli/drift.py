"""``drift``: does the camera still see what the model was calibrated on?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import watching
from ..errors import GateError
from . import options as shared


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True, metavar="B")
@click.option(
    "--learn", metavar="DATA", help="First, once: keep what the calibration images look like in the bundle."
)
@shared.path_option("--log", "FILE|DIR", "What 'camera --log' wrote.")
@shared.path_option(
    "--against", "FILE|DIR", "Another log, of a time when all was well, instead of the calibration images."
)
@shared.setting(
    "--false-alarm", click.FloatRange(0.0005, 0.5), 0.01, "Chance of a word about drift where there is none."
)
@click.option("--part", default="auto", show_default=True, help="Of --learn DATA: as for calibrate.")
@shared.seed_option
@shared.json_option
def drift(
    bundle: Path,
    learn: str | None,
    log: Path | None,
    against: Path | None,
    false_alarm: float,
    part: str,
    seed: int,
    json_file: str | None,
) -> None:
    """Compare the camera's looks with the calibration images: class mix, confidence, entropy and picture quality.

    Exit status 1 where something drifted.

    \b
    Example:  edge-derm drift --bundle d1.bundle --log predictions/
    """
    if (learn is None) == (log is None):
        raise click.UsageError("expected --learn DATA or --log FILE, one of them")
    if learn is not None:
        record = watching.learn(bundle, data=learn, part=part, seed=seed)
        shared.emit(record, json_file, learnt(bundle, record))
        return
    assert log is not None
    record = watching.drift(bundle, log=log, against=against, false_alarm=false_alarm)
    shared.emit(record, json_file, verdict(record))
    if record["drifted"]:
        raise GateError(
            f"drift in {', '.join(record['drifted'])}: expected looks like those of {record['against']} (false alarms: "
            f"{false_alarm:g}), got others: see docs/drift.md for what to do",
            code="drift",
        )


def learnt(bundle: Path, record: dict[str, Any]) -> str:
    """What was kept."""
    text = f"{bundle}: {record['images']} lesions kept ({record['part']}); the quality gate refused {record['refused']} more"
    if record["signature_removed"]:
        text += "\n  the signature no longer fitted and was removed: sign the bundle again"
    return text


def verdict(record: dict[str, Any]) -> str:
    """The verdict, and a line a figure."""
    head = f"{record['looks']} looks against {record['reference_looks']} of {record['against']}: {record['verdict']}"
    if record["verdict"] == "waiting":
        return head + f" (nothing is said below {record['least']} looks)"
    return "\n".join([head, *(_line(row, record["labels"]) for row in record["rows"])])


def _line(row: dict[str, Any], labels: list[str]) -> str:
    mark = "DRIFT" if row["drifted"] else "     "
    if isinstance(row["now"], list):
        moved = ", ".join(
            f"{label} {a:.2f} -> {b:.2f}" for label, a, b in zip(labels, row["before"], row["now"])
        )
    else:
        moved = f"median {row['before']:.3g} -> {row['now']:.3g}"
    return f"  {mark} {row['figure']}: {moved} (gap {row['statistic']:.3f}, p {row['p_adjusted']:.3g})"

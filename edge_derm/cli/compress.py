"""``compress``: Keras to smaller Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import making
from . import options as shared


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--method",
    type=click.Choice(["prune", "cluster", "distill", "qat"]),
    required=True,
    help="Take channels (or weights) out, let weights share values, learn from a better network, or train with int8 simulated.",
)
@shared.setting("--keep", float, 0.6, "prune: share of the MACs that stays.")
@click.option(
    "--sparsity",
    type=float,
    default=None,
    help="prune: instead of channels, set this share of the pointwise weights to zero.",
)
@shared.setting("--clusters", int, 32, "cluster: distinct weights of a kernel.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="RUN",
    help="Whom to learn from, repeatable for an ensemble; other widths and sizes are welcome (default: the run itself).",
)
@click.option(
    "--size",
    "size_px",
    type=int,
    default=None,
    help="Side of the input in pixels (default: the run's). The file's bytes do not depend on it.",
)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--data", metavar="DIR", help="Images (default: those the run was trained on).")
@shared.seed_option
@shared.out_option("The run folder; an interrupted one is resumed.")
@shared.json_option
def compress(run: Path, out: Path, json_file: str | None, **choices: Any) -> None:
    """Make a trained model smaller.

    \b
    Example:  edge-derm compress runs/d1 --method prune --keep 0.6 --out runs/d1-60
    """
    record = making.compress(run, out, **choices)
    before, after = record["parent"], record["validation"]
    shared.emit(
        record,
        json_file,
        (
            f"{out}: {record['method']}: {record['parameters']:,} of {before['parameters']:,} parameters, "
            f"{record['macs'] / before['macs']:.0%} of the MACs, {record['sparsity']:.0%} zeros; validation accuracy "
            f"{after['accuracy']:.3f} (was {before['validation']['accuracy']:.3f}), "
            f"balanced {after['balanced_accuracy']:.3f} (was {before['validation']['balanced_accuracy']:.3f})"
        ),
    )

"""``sweep``: a grid of trainings and exports, each cell measured and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..sweep import driving
from . import options as shared


@click.command()
@shared.path_option(
    "--grid",
    "FILE.toml",
    "Lists of variants, widths, sizes, recipes, seeds; tables [train], [bench], [evaluate].",
    required=True,
)
@shared.data_option
@shared.setting(
    "--workers",
    click.IntRange(1, 256),
    1,
    "Processes on this machine, each on its share of the cores.",
    metavar="N",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Let the workers of this dask.distributed scheduler do it, e.g. tcp://host:8786.",
)
@click.option(
    "--ship",
    is_flag=True,
    help="With --dask: its workers share no folder with this machine; send them the data.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=None,
    metavar="N",
    help="Threads a training computes with; its last digits depend on them (default: this machine's cores over --workers).",
)
@shared.out_option("The sweep's folder; an interrupted or larger sweep goes on where it was.")
@shared.json_option
def sweep(grid: Path, json_file: str | None, ship: bool, dask: str | None, **choices: Any) -> None:
    """Train, export, measure and judge every cell of a grid, and say which configurations nothing beats.

    \b
    Example:  edge-derm sweep --grid grid.toml --data images/ --out sweep
              edge-derm sweep --grid grid.toml --data images/ --out sweep --dask tcp://10.0.0.5:8786
    """
    if ship and dask is None:
        raise click.UsageError("--ship goes with --dask ADDRESS")
    record = driving.sweep(grid, dask=dask, ship=ship, say=shared.say, **choices)
    shared.emit(record, json_file, "\n".join(lines(record)))
    for row in record["runs"]:
        if row["error"]:
            click.echo(f"edge-derm: warning: {row['cell']} failed: {row['message']}", err=True)
    if record["failed"] == len(record["runs"]):
        raise click.exceptions.Exit(1)


def lines(record: dict[str, Any]) -> list[str]:
    """The front, a line each, and where the rest is."""
    done = len(record["runs"]) - record["failed"]
    found = [
        f"{done} of {len(record['runs'])} cells done; nothing beats these in {', '.join(record['axes'])}:"
    ]
    for row in sorted(record["pareto"], key=lambda row: row["bytes"]):
        spread = "" if row["accuracy_sd"] is None else f" ± {row['accuracy_sd']:.3f}"
        found.append(
            f"  {row['variant']} α={row['alpha']:g} {row['size_px']} px {row['recipe']}: accuracy {row['accuracy']:.3f}{spread} "
            f"({row['seeds']} seed{'s' * (row['seeds'] > 1)}), {row['bytes']:,} bytes, {row['macs'] / 1e6:.2f} M MACs"
        )
    return [*found, f"table: {', '.join(record['tables'])}; report: {record['report']}"]

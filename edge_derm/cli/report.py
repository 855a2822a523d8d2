"""``report``: one self-contained HTML page from runs, bundles and records."""

from __future__ import annotations

from pathlib import Path

import click

from .. import using
from . import options as shared


@click.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="PATH...")
@shared.out_option("The HTML file.")
@shared.json_option
def report(paths: tuple[Path, ...], out: Path, json_file: str | None) -> None:
    """One page that works offline, from run folders, bundles and JSON records.

    \b
    Example:  edge-derm report runs/d1 d1.bundle verify.json bench.json --out report.html
    """
    record = using.report(paths, out)
    shared.emit(record, json_file, f"{record['report']}: {len(paths)} sources")

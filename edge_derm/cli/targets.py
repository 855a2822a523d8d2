"""``targets``: where a model can be measured from here, and what the rest lack."""

from __future__ import annotations

import sys
from typing import Any

import click

from . import options as shared


@click.command()
@click.option("--prepare", metavar="NAME", help="Make this target ready first (may need the network).")
@shared.json_option
def targets(prepare: str | None, json_file: str | None) -> None:
    """Every target, whether it is ready, and the command that would make it so.

    \b
    Example:  edge-derm targets --json -
    """
    from ..measure.targets import find_target, list_targets

    found = list_targets() if prepare is None else [find_target(prepare)]
    if prepare is not None and found[0].prepare is not None:
        found[0].prepare()
    rows = [target.row() for target in found]
    shared.emit(rows, json_file, "\n".join(text(row) for row in rows))
    if prepare is not None and not rows[0]["ready"]:
        sys.exit(1)


def text(row: dict[str, Any]) -> str:
    """One line: name, kind, ready or the command that is missing."""
    return f"{row['name']} ({row['kind']}): {'ready' if row['ready'] else 'run: ' + row['missing']}"

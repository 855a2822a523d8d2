"""What several commands share: ``--json`` and how a result is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .. import writing

json_option = click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the result as JSON; - for standard output, with nothing else there.",
)
arena_option = click.option(
    "--arena",
    type=click.IntRange(0),
    metavar="BYTES",
    help="Let the arena grow up to this: taller steps, fewer instructions. 0: as small as possible. Without it: at most "
    "30 % (or 3,840 bytes) above the smallest.",
)


def emit(record: dict[str, Any], json_file: str | None, text: str) -> None:
    """Give the result: ``text`` for a person on standard output, or the record as JSON where it was asked for."""
    if json_file == "-":
        click.echo(json.dumps(record, indent=2, allow_nan=False))
        return
    click.echo(text)
    if json_file:
        writing.write_file(Path(json_file), json.dumps(record, indent=2, allow_nan=False) + "\n")

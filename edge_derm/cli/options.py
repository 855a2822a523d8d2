"""What several commands share: the options they take, how they open data, and how they give their result."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable

import click

from .. import files
from ..records import clean


def path_option(
    name: str, metavar: str, what: str, *, required: bool = False, multiple: bool = False
) -> Callable:
    """An option that takes a path."""
    return click.option(
        name,
        type=click.Path(path_type=Path),
        metavar=metavar,
        help=what,
        required=required,
        multiple=multiple,
    )


def setting(
    name: str, kind: click.ParamType | type, default: Any, what: str, *, metavar: str | None = None
) -> Callable:
    """An option with a default, which the help page shows."""
    return click.option(name, type=kind, default=default, show_default=True, metavar=metavar, help=what)


def together(*options: Callable) -> Callable:
    """Several options as one decorator, in this order on the help page."""

    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


bundle_argument = click.argument("bundle", type=click.Path(path_type=Path), metavar="BUNDLE")
json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the result as one JSON document (- = standard output)."
)
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of everything random."
)
data_option = click.option(
    "--data",
    "data",
    metavar="DIR",
    required=True,
    help="A folder per class, images/ + metadata.csv (HAM10000/ISIC layout), or synthetic[:N].",
)
part_option = click.option(
    "--part",
    default="auto",
    show_default=True,
    metavar="PART",
    help="auto: what the model was not trained on (test, else validation); or all, train, validation, test.",
)
threads_option = click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
judged_options = together(part_option, threads_option, seed_option, json_option)
backend_option = click.option(
    "--backend",
    default="litert",
    show_default=True,
    help="litert, tflite-runtime; of a bundle exported with --recipe onnx also onnxruntime, onnxruntime-cuda, "
    "onnxruntime-tensorrt, opencv.",
)
gate_option = path_option("--gate", "FILE.toml", "Limits that must hold, else exit 1.")
dropout_rate_option = click.option(
    "--dropout",
    type=click.FloatRange(0, 0.9),
    default=None,
    metavar="P",
    help="Rate of --mc (default: what the model was trained with).",
)


def passes_option(default: int | None, what: str) -> Callable:
    """``--mc``: passes under dropout."""
    return click.option("--mc", type=click.IntRange(0, 1024), default=default, metavar="N", help=what)


def views_option(default: int, what: str) -> Callable:
    """``--tta``: views of an image."""
    return click.option("--tta", type=click.IntRange(0, 64), default=default, metavar="N", help=what)


def out_option(what: str) -> Callable:
    """``--out`` as a path that is written whole or not at all."""
    return path_option("--out", "PATH", what, required=True)


def blocks(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """``head`` → 1, ``last-3`` → 3."""
    if value is None or value == "head":
        return None if value is None else 1
    count = value.removeprefix("last-")
    if not (value.startswith("last-") and count.isascii() and count.isdigit() and 1 <= int(count[:3]) <= 13):
        raise click.BadParameter(f"expected head or last-1 to last-13, got {value!r}")
    return int(count)


def emit(record: Any, json_file: str | None, text: str) -> None:
    """Give the result: ``text`` for a person on standard output, or the record as JSON where it was asked for."""
    if json_file == "-":
        click.echo(json.dumps(clean(record), indent=2, allow_nan=False))
        return
    click.echo(text)
    if json_file:
        files.write_json(Path(json_file), clean(record))


def say(text: str) -> None:
    """Progress, on stderr and only at a terminal."""
    if sys.stderr.isatty():
        click.echo(text, err=True)

"""``tflm``: a model for those who run TensorFlow Lite Micro."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from .. import writing
from ..graph import BridgeError
from ..tflite import parse
from ..tflm import Arena, list_operators, make_files, measure_arena
from . import options as shared


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.tflite")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write.")
@click.option("--name", default="net", show_default=True, help="Prefix of files and names.")
@shared.json_option
def tflm(model: Path, out: Path, name: str, json_file: str | None) -> None:
    """C array, op resolver and measured arena for TensorFlow Lite Micro.

    \b
    Example:  firmware-bridge tflm model.tflite --out tflm/
    """
    if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) is None:
        raise BridgeError(
            f"--name: expected a C identifier in lower case, at most 40 characters, got {name[:60]!r}",
            code="name",
        )
    data = model.read_bytes()
    graph = parse(data)
    operators = list_operators(graph)
    arena = measure_arena(data, graph)
    files = make_files(data, graph, arena, name=name)
    writing.write_folder(out, files, ours=f"{name}_ops.h")
    record = make_record(model, out, files, arena, operators, len(data))
    shared.emit(record, json_file, text(record))


def make_record(
    model: Path, out: Path, files: dict[str, str], arena: Arena, operators: dict[str, int], size: int
) -> dict[str, Any]:
    """Return the command's JSON; the arena is null, with the reason, where it could not be measured."""
    return {
        "record": "tflm",
        "model": str(model),
        "out": str(out),
        "model_bytes": size,
        "arena_bytes": arena.total,
        "arena": {
            "tensors_bytes": arena.tensors,
            "persistent_bytes": arena.persistent,
            "reason": arena.reason,
        },
        "operators": operators,
        "files": sorted(files),
    }


def text(record: dict[str, Any]) -> str:
    """The record in a line or two."""
    operators = ", ".join(f"{count} {name}" for name, count in record["operators"].items())
    arena = record["arena_bytes"]
    taken = (
        f"not measured: {record['arena']['reason']}" if arena is None else f"{arena:,} bytes (64-bit host)"
    )
    return f"{record['out']}: {len(record['files'])} files; {operators}\n  arena: {taken}"

"""``generate``: a model file as a folder of C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..network import Network, read_network
from ..project import describe_network, make_golden, project_files
from ..writing import write_folder
from . import options as shared


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="MODEL.tflite")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder, written whole."
)
@click.option("--name", default="net", show_default=True, help="Begins every file and every public C name.")
@shared.arena_option
@shared.json_option
def generate(model: Path, out: Path, name: str, arena: int | None, json_file: str | None) -> None:
    """Write the network as portable C99 with kernels, CMakeLists, README and a self-test.

    \b
    Example:  firmware-bridge generate d1.bundle/model.tflite --out net
              cc -O2 net/*.c -o selftest && ./selftest
    """
    network = read_network(model.read_bytes(), arena_limit=arena)
    files = project_files(network, name=name, golden=make_golden(network))
    write_folder(out, files, ours=f"{name}.h")
    record = make_record(model, network, sorted(files))
    shared.emit(record, json_file, text(record, out))


def make_record(model: Path, network: Network, files: list[str]) -> dict[str, Any]:
    """Return the command's JSON."""
    return {"record": "generate", "model": str(model), **describe_network(network), "files": files}


def text(record: dict[str, Any], out: Path) -> str:
    """The record in a few lines."""
    operators = ", ".join(f"{count} {name}" for name, count in record["operators"].items())
    return (
        f"{out}: {len(record['files'])} files; arena {record['arena_bytes']:,} bytes (input and output included), "
        f"weights {record['weights_bytes']:,} bytes, {record['steps']} steps\n  {operators}"
    )

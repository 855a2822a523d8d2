"""``generate``: a model file as a folder of C."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from ..decision import Decision, read_manifest
from ..network import Network, read_network
from ..packaging import KINDS, package_files
from ..project import describe_network, make_golden, project_files
from ..writing import write_folder
from . import options as shared


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="MODEL.tflite")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder, written whole."
)
@click.option("--name", default="net", show_default=True, help="Begins every file and every public C name.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="A bundle's manifest.json: the device decides with its calibration, and knows its labels.",
)
@click.option("--temperature", type=float, metavar="T", help="The device decides: logits are divided by T.")
@click.option(
    "--abstain", type=float, metavar="P", help="The device decides: no class below this probability."
)
@click.option(
    "--package",
    type=click.Choice(KINDS),
    default="plain",
    show_default=True,
    help="A plain folder with CMake, a Zephyr module, or an Arduino library.",
)
@click.option("--link", is_flag=True, help="Add the framed link, so that infer can talk to the device.")
@shared.arena_option
@shared.json_option
def generate(
    model: Path,
    out: Path,
    name: str,
    package: str,
    link: bool,
    arena: int | None,
    json_file: str | None,
    **choices: Any,
) -> None:
    """Write the network as portable C99 with kernels, CMakeLists, README and a self-test.

    \b
    Example:  firmware-bridge generate d1.bundle/model.tflite --out net
              cc -O2 net/*.c -o selftest && ./selftest
    """
    network = read_network(model.read_bytes(), arena_limit=arena)
    decision, labels = _choose(**choices)
    files = project_files(network, name=name, golden=make_golden(network), decision=decision, labels=labels)
    files = package_files(files, package, name=name, link=link)
    write_folder(out, files, ours="library.properties" if package == "arduino" else f"{name}.h")
    record = make_record(model, network, sorted(files), decision)
    shared.emit(record, json_file, text(record, out))


def make_record(
    model: Path, network: Network, files: list[str], decision: Decision | None = None
) -> dict[str, Any]:
    """Return the command's JSON; ``decision`` is null where the device only gives scores."""
    made = None if decision is None else dataclasses.asdict(decision)
    return {
        "record": "generate",
        "model": str(model),
        **describe_network(network),
        "decision": made,
        "files": files,
    }


def _choose(
    manifest: Path | None, temperature: float | None, abstain: float | None
) -> tuple[Decision | None, tuple[str, ...]]:
    """Return the decision asked for, single figures over the manifest's, and the manifest's labels."""
    if manifest is None:
        asked = temperature is not None or abstain is not None
        return (Decision(temperature, abstain) if asked else None), ()
    decision, labels = read_manifest(manifest)
    given: dict[str, Any] = {"temperature": temperature, "abstain_threshold": abstain}
    return (
        dataclasses.replace(decision, **{key: value for key, value in given.items() if value is not None}),
        labels,
    )


def text(record: dict[str, Any], out: Path) -> str:
    """The record in a few lines."""
    operators = ", ".join(f"{count} {name}" for name, count in record["operators"].items())
    return (
        f"{out}: {len(record['files'])} files; arena {record['arena_bytes']:,} bytes (input and output included), "
        f"weights {record['weights_bytes']:,} bytes, {record['steps']} steps\n  {operators}"
    )

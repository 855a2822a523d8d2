"""``generate``: a model file as a folder of C."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from ..decision import Decision, decision_part, labels_part, read_manifest
from ..frames import frame_part, read_normalisation
from ..graph import BridgeError
from ..network import Network, read_network
from ..part import Part
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
    "--pixels", is_flag=True, help="The device makes its input of a camera's frame, as training did."
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
    decision, parts = choose_parts(network, name=name, **choices)
    files = project_files(network, name=name, golden=make_golden(network), parts=parts)
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


def choose_parts(
    network: Network,
    *,
    name: str,
    manifest: Path | None,
    temperature: float | None,
    abstain: float | None,
    pixels: bool,
) -> tuple[Decision | None, list[Part]]:
    """Return the decision asked for, single figures over the manifest's, and all the folder gets beside the network."""
    graph, decision, parts, normalisation = network.graph, None, [], (128.0, 128.0)
    if manifest is not None:
        stored = _read_json(manifest)
        decision, labels = read_manifest(stored, str(manifest))
        parts.append(labels_part(labels, graph.tensor(graph.outputs[0]), name=name))
        normalisation = read_normalisation(stored, str(manifest)) if pixels else normalisation
    given: dict[str, Any] = {"temperature": temperature, "abstain_threshold": abstain}
    given = {key: value for key, value in given.items() if value is not None}
    if given:
        decision = dataclasses.replace(decision or Decision(), **given)
    if decision is not None:
        parts.append(decision_part(decision, graph.tensor(graph.outputs[0]), name=name))
    if pixels:
        mean, std = normalisation
        parts.append(frame_part(graph.tensor(graph.inputs[0]), name=name, mean=mean, std=std))
    return decision, parts


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BridgeError(
            f"{path}: expected a bundle's manifest.json, got no JSON: {error}", code="manifest"
        ) from error


def text(record: dict[str, Any], out: Path) -> str:
    """The record in a few lines."""
    operators = ", ".join(f"{count} {name}" for name, count in record["operators"].items())
    return (
        f"{out}: {len(record['files'])} files; arena {record['arena_bytes']:,} bytes (input and output included), "
        f"weights {record['weights_bytes']:,} bytes, {record['steps']} steps\n  {operators}"
    )

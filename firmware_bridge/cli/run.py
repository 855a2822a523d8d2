"""``run``: a model on this machine or an emulated board."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import click
import numpy as np

from ..board import BOARDS
from ..graph import Tensor
from ..inputs import read_input
from ..link import TensorInfo
from ..network import Network, check_inputs, lcg_inputs, read_network
from ..running import Comparison, Run, check_network, profile_stages, run_network
from . import options as shared


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="MODEL.tflite")
@click.option("--board", type=click.Choice(list(BOARDS)), default="host", show_default=True)
@click.option(
    "--input",
    "given",
    default="lcg:12345",
    show_default=True,
    metavar="FILE.npy|IMAGE|lcg:SEED",
    help="What the network is given; stored integers in a .npy.",
)
@click.option("--check", is_flag=True, help="Compare every tensor with LiteRT's reference kernels.")
@click.option(
    "--inputs",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    metavar="N",
    help="Also run lcg:1, lcg:2, … until N inputs were run.",
)
@click.option("--profile", is_flag=True, help="Also count the instructions of each layer (emulated boards).")
@click.option(
    "--mean",
    type=float,
    default=128.0,
    show_default=True,
    help="For an IMAGE: the model computes on (pixel - mean) / std.",
)
@click.option("--std", type=float, default=128.0, show_default=True)
@shared.arena_option
@shared.json_option
def run(model: Path, board: str, given: str, json_file: str | None, **choices: Any) -> None:
    """Build the network for a board, run it, count instructions and bytes.

    Instructions are those of one inference under the emulator: not cycles, so no time follows from them.

    \b
    Example:  firmware-bridge run d1.bundle/model.tflite --board mps2-an500 --check
    """
    if choices["profile"] and board == "host":
        raise click.UsageError(
            "--profile counts instructions, which only an emulated board does; choose --board"
        )
    network = read_network(model.read_bytes(), arena_limit=choices["arena"])
    first = _read_first(network, given, choices["mean"], choices["std"])
    inputs = [first, *(lcg_inputs(network, seed) for seed in range(1, choices["inputs"]))]
    compared = None
    if choices["check"]:
        found, compared = check_network(network, board, inputs)
    else:
        found = run_network(network, board, inputs)
    record = make_record(model, given, network, found, compared)
    if choices["profile"]:
        record["stages"] = profile_stages(network, board, first)
    shared.emit(record, json_file, text(record))
    if compared is not None and not compared.exact:
        raise click.exceptions.Exit(1)


def make_record(
    model: Path, given: str, network: Network, found: Run, compared: Comparison | None
) -> dict[str, Any]:
    """Return the command's JSON; ``instructions`` and ``stack_bytes`` are null on the host, ``exact`` without --check."""
    outputs = [found.outputs[0][index] for index in network.graph.outputs]
    return {
        "record": "firmware-run",
        "model": str(model),
        "model_sha256": network.digest,
        "board": found.board,
        "input": given,
        "output": outputs[0].ravel().tolist(),
        "more_outputs": [output.ravel().tolist() for output in outputs[1:]],
        "instructions": found.instructions,
        "arena_bytes": found.sizes.arena,
        "text_bytes": found.sizes.text,
        "weights_bytes": found.sizes.weights,
        "state_bytes": found.sizes.state,
        "stack_bytes": found.stack_bytes,
        "steps": len(network.plan.schedule.steps),
        "exact": None if compared is None else compared.exact,
        "inputs_compared": None if compared is None else compared.inputs,
        "values_compared": None if compared is None else compared.values,
        "wrong": None if compared is None else _name_wrong(network, compared),
        "stages": None,
    }


def text(record: dict[str, Any]) -> str:
    """The record for a person."""
    sizes = ", ".join(f"{what} {record[what + '_bytes']:,} bytes" for what in ("arena", "text", "weights"))
    lines = [f"{record['board']}: output {record['output']}", f"  {sizes}"]
    if record["instructions"] is not None:
        lines.append(
            f"  {record['instructions']:,} instructions, stack {record['stack_bytes']:,} bytes (emulated: no time)"
        )
    if record["exact"] is not None:
        verdict = "equal to LiteRT's reference kernels" if record["exact"] else f"WRONG: {record['wrong']}"
        lines.append(
            f"  {record['values_compared']:,} values of {record['inputs_compared']} inputs: {verdict}"
        )
    lines += [
        f"  {stage['instructions']:>12,}  {stage['operator']} {stage['shape']}"
        for stage in record["stages"] or ()
    ]
    return "\n".join(lines)


def _read_first(network: Network, given: str, mean: float, std: float) -> Sequence[np.ndarray]:
    if given.startswith("lcg:") and given[4:].isascii() and given[4:].isdigit():
        return lcg_inputs(network, int(given[4:]))
    tensors = [network.graph.tensor(index) for index in network.graph.inputs]
    if len(tensors) > 1:
        raise click.UsageError(f"a network of {len(tensors)} inputs is given lcg:SEED; got {given}")
    raw = read_input(given, _info(tensors[0]), mean=mean, std=std)
    return check_inputs(network, [np.frombuffer(raw, tensors[0].dtype)])


def _info(tensor: Tensor) -> TensorInfo:
    found = tensor.quantization
    scale, zero = (1.0, 0) if found is None else (float(found.scale[0]), int(found.zero_point[0]))
    return TensorInfo(tensor.dtype, tensor.shape, scale, zero)


def _name_wrong(network: Network, compared: Comparison) -> dict[str, int]:
    return {
        f"{index} {network.graph.tensor(index).name[:80]}": count for index, count in compared.wrong.items()
    }

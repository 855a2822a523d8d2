"""A network as the folder a firmware engineer gets: the C, the kernels it needs, and how to build and try it.

The folder compiles alone (``cc *.c``), into a program that runs the self-test: golden inputs whose outputs were
computed by TensorFlow Lite's reference kernels. Inputs are drawn in C by the generator behind ``lcg:SEED``, so only the
outputs are stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np

from firmware_bridge import ctext, pack
from firmware_bridge.board import FIRMWARE
from firmware_bridge.codegen import build_layers, count_weights, generate_network
from firmware_bridge.graph import Graph, Tensor
from firmware_bridge.network import Network, lcg_inputs
from firmware_bridge.part import Part, declare
from firmware_bridge.project_text import CMAKE, MAIN, README, SELF_TEST
from firmware_bridge.reference import run_reference
from firmware_bridge.summary import count_macs, count_operators

KERNELS = FIRMWARE / "kernels"
GOLDEN_SEEDS = (12345, 1, 2)
STACK_BYTES = 6_144  # more than any board used in any test; the tests hold it to that

Golden = tuple[tuple[int, bytes], ...]


def kernel_files(graph: Graph) -> dict[str, str]:
    """Return {file name: C text} of the kernels that ``graph`` needs, headers included."""
    needed = {name for op in graph.ops for name in pack.SOURCES[op.name]}
    return {name: (KERNELS / name).read_text(encoding="utf-8") for name in sorted(needed | set(pack.HEADERS))}


def network_files(network: Network, *, name: str = "net", **options: bool) -> dict[str, str]:
    """Return {file name: C text} of ``network`` and its kernels; ``options`` as ``codegen.generate_network``."""
    made = generate_network(network.graph, network.plan, name=name, digest=network.digest, **options)
    return {**made, **kernel_files(network.graph)}


def make_golden(network: Network, seeds: Sequence[int] = GOLDEN_SEEDS) -> Golden:
    """Return (seed, bytes of all outputs by LiteRT's reference kernels) for the input ``lcg:SEED`` of each seed.

    Raises BridgeError ``litert-missing`` or ``reference-failed``.
    """
    wanted = tuple(dict.fromkeys(network.graph.outputs))
    inputs = [lcg_inputs(network, seed) for seed in seeds]
    found = run_reference(network.model, network.whole, network.graph, inputs, tensors=wanted)
    return tuple(
        (seed, b"".join(values[index].tobytes() for index in network.graph.outputs))
        for seed, values in zip(seeds, found, strict=True)
    )


def project_files(
    network: Network,
    *,
    name: str = "net",
    golden: Golden,
    parts: Sequence[Part] = (),
) -> dict[str, str]:
    """Return {file name: text} of the whole folder; ``golden`` as from ``make_golden``. The same every time.

    ``parts`` are what else the folder gets: a decision (``decision``), pixels (``frames``).
    """
    code = network_files(network, name=name, self_test=True)
    for part in parts:
        code |= {**part.files, f"{name}.h": declare(code[f"{name}.h"], part)}
    files = {**code, f"{name}_selftest.c": _self_test(network, name, golden)}
    files["main.c"] = MAIN.replace("@name@", name)
    sources = sorted(file for file in files if file.endswith(".c") and file not in _test_files(name))
    files["CMakeLists.txt"] = CMAKE.replace("@name@", name).replace("@sources@", "\n    ".join(sources))
    files["README.md"] = _readme(network, name, sources) + "".join(part.notes for part in parts)
    return files


def describe_network(network: Network) -> dict[str, object]:
    """Return the figures of a generated network: arena, weights, operators, inputs and outputs."""
    layers = build_layers(network.graph, network.plan)
    return {
        "model_sha256": network.digest,
        "arena_bytes": network.plan.arena_bytes,
        "weights_bytes": count_weights(layers),
        "stack_bytes_bound": STACK_BYTES,
        "steps": len(network.plan.schedule.steps),
        "macs": count_macs(network.graph),
        "operators": count_operators(network.graph),
        "inputs": [_end(network.graph.tensor(index)) for index in network.graph.inputs],
        "outputs": [_end(network.graph.tensor(index)) for index in network.graph.outputs],
    }


def write_sources(files: dict[str, str], folder: Path) -> list[Path]:
    """Write ``files`` into ``folder`` and return those that are compiled."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files if name.endswith(".c")]


def _test_files(name: str) -> tuple[str, str]:
    return ("main.c", f"{name}_selftest.c")


def _end(tensor: Tensor) -> dict[str, object]:
    found = tensor.quantization
    single = found is not None and not found.per_channel
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "scale": float(found.scale[0]) if found is not None and single else None,
        "zero_point": int(found.zero_point[0]) if found is not None and single else None,
    }


def _self_test(network: Network, name: str, golden: Golden) -> str:
    graph = network.graph
    draws, checks, at = [], [], 0
    for number, index in enumerate(graph.inputs):
        draws.append(
            f"        seed = draw(seed, {name}_input{_suffix(number)}(), {graph.tensor(index).elements});"
        )
    for number, index in enumerate(graph.outputs):
        size = graph.tensor(index).elements
        checks.append(
            f"        wrong += differ({name}_output{_suffix(number)}(), expected[i] + {at}, {size});"
        )
        at += size
    rows = ",\n    ".join(
        ctext.integers(np.frombuffer(values, np.uint8).tolist()).replace("\n", "\n    ")
        for _, values in golden
    )
    parts = {
        "@seeds@": ", ".join(f"{seed}u" for seed, _ in golden),
        "@count@": str(len(golden)),
        "@size@": str(at),
        "@rows@": rows,
        "@draws@": "\n".join(draws),
        "@checks@": "\n".join(checks),
        "@name@": name,
    }
    text = SELF_TEST
    for key, value in parts.items():
        text = text.replace(key, value)
    return text


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def _readme(network: Network, name: str, sources: Sequence[str]) -> str:
    figures = describe_network(network)
    operators = "\n".join(f"| {op} | {count} |" for op, count in count_operators(network.graph).items())
    ends = "\n".join(
        f"* `{name}_{what}{_suffix(number)}()`: {tensor.dtype} {list(tensor.shape)}{_meaning(tensor)}"
        for what, indices in (("input", network.graph.inputs), ("output", network.graph.outputs))
        for number, tensor in enumerate(map(network.graph.tensor, indices))
    )
    parts = {
        "@name@": name,
        "@NAME@": name.upper(),
        "@digest@": network.digest,
        "@arena@": f"{network.plan.arena_bytes:,}",
        "@weights@": f"{figures['weights_bytes']:,}",
        "@stack@": f"{STACK_BYTES:,}",
        "@steps@": f"{len(network.plan.schedule.steps):,}",
        "@macs@": f"{count_macs(network.graph):,}",
        "@operators@": operators,
        "@ends@": ends,
        "@sources@": " ".join(sources),
    }
    text = README
    for key, value in parts.items():
        text = text.replace(key, value)
    return text


def _meaning(tensor: Tensor) -> str:
    found = tensor.quantization
    if found is None or found.per_channel:
        return ""
    return f", real value = {float(found.scale[0]):.9g} * (stored - {int(found.zero_point[0])})"

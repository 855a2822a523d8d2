"""A network as the folder a firmware engineer gets: the C, the kernels it needs, and how to build and try it."""

from __future__ import annotations

from pathlib import Path

from firmware_bridge import pack
from firmware_bridge.board import FIRMWARE
from firmware_bridge.codegen import generate_network
from firmware_bridge.graph import Graph
from firmware_bridge.network import Network

KERNELS = FIRMWARE / "kernels"


def kernel_files(graph: Graph) -> dict[str, str]:
    """Return {file name: C text} of the kernels that ``graph`` needs, headers included."""
    needed = {name for op in graph.ops for name in pack.SOURCES[op.name]}
    headers = {path.name for path in KERNELS.glob("*.h")}
    return {name: (KERNELS / name).read_text(encoding="utf-8") for name in sorted(needed | headers)}


def network_files(network: Network, *, name: str = "net", open_arena: bool = False) -> dict[str, str]:
    """Return {file name: C text} of ``network`` and its kernels; see ``codegen.generate_network``."""
    made = generate_network(
        network.graph, network.plan, name=name, digest=network.digest, open_arena=open_arena
    )
    return {**made, **kernel_files(network.graph)}


def write_sources(files: dict[str, str], folder: Path) -> list[Path]:
    """Write ``files`` into ``folder`` and return those that are compiled."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files if name.endswith(".c")]

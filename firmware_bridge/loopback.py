"""``loop://``: the device's own C, compiled for this machine and run as a process at the other end of a pipe."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Iterator, Sequence

from firmware_bridge.board import FIRMWARE, Board, Build, build, find_board
from firmware_bridge.graph import LinkError
from firmware_bridge.network import read_network
from firmware_bridge.project import network_files, write_sources
from firmware_bridge.transports import Program

LINK_SOURCES = tuple(FIRMWARE / name for name in ("link.c", "link_serve.c", "link_net.c", "link_main.c"))
DEMO = FIRMWARE / "link_demo"


def build_device(net: Path, out: Path, *, board: Board | None = None, extra: Sequence[str] = ()) -> Build:
    """Compile the link's firmware with the network in the folder ``net``, for the host unless told.

    ``net`` is a folder that ``generate`` wrote under the name ``net``, or another with a net.h like its; its main.c is
    left out. Raises BoardError ``tool-missing``, ``compile-failed``, LinkError ``no-network``.
    """
    if not (net / "net.h").is_file():
        raise LinkError(
            f"{net}: expected a folder written by generate with --name net, got no net.h there",
            code="no-network",
        )
    sources = [*LINK_SOURCES, *(path for path in sorted(net.glob("*.c")) if path.name != "main.c")]
    return build(sources, board or find_board("host"), out=out, include=[FIRMWARE, net], extra=extra)


@contextlib.contextmanager
def loopback(net: Path = DEMO, *, extra: Sequence[str] = ()) -> Iterator[Program]:
    """Yield the transport to a device on this machine that serves ``net`` (without one: which colour is it?)."""
    with tempfile.TemporaryDirectory(prefix="loopback-") as folder:
        program = Program([str(build_device(net, Path(folder), extra=extra).executable)])
        try:
            yield program
        finally:
            program.close()


@contextlib.contextmanager
def loop_model(model: bytes) -> Iterator[Program]:
    """Yield the transport to a device on this machine that serves the network generated from ``model``."""
    with tempfile.TemporaryDirectory(prefix="loopback-") as folder:
        write_sources(network_files(read_network(model)), Path(folder))
        with loopback(Path(folder)) as program:
            yield program

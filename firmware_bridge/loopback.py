"""``loop://``: the device's own C, compiled for this machine and run as a process at the other end of a pipe."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Iterator, Sequence

from firmware_bridge.board import FIRMWARE, Board, Build, build, find_board
from firmware_bridge.transports import Program

LINK_SOURCES = tuple(FIRMWARE / name for name in ("link.c", "link_serve.c", "link_main.c"))
DEMO = FIRMWARE / "link_demo"


def build_device(net: Path, out: Path, *, board: Board | None = None, extra: Sequence[str] = ()) -> Build:
    """Compile the link's firmware with the network in the folder ``net`` (its *.c, net.h), for the host unless told.

    Raises BoardError ``tool-missing``, ``compile-failed``.
    """
    sources = [*LINK_SOURCES, *sorted(net.glob("*.c"))]
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

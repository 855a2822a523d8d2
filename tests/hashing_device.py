"""The device whose output is a hash of its input: on this machine, on an emulated board, behind a line that spoils frames."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest

from firmware_bridge import board
from firmware_bridge.device import Patience
from firmware_bridge.loopback import build_device
from firmware_bridge.transports import Program

HASHING = Path(__file__).parent / "link_net"
STEADY = Patience(timeout_s=5.0)  # a loaded machine is late, not silent
QUICK = Patience(timeout_s=0.006, run_timeout_s=0.03, attempts=100)


def fnv(data: bytes, seed: int) -> int:
    for byte in data:
        seed = (seed ^ byte) * 16777619 & 0xFFFFFFFF
    return seed


def expected(data: bytes) -> bytes:
    return fnv(data, 2166136261).to_bytes(4, "little") + fnv(data, 1).to_bytes(4, "little")


def make_inputs(count: int, seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, 768, np.uint8).tobytes() for _ in range(count)]


class Faults:
    """A line that loses, repeats, reorders, cuts and flips, and keeps old bytes to send again much later."""

    KINDS = ("drop", "duplicate", "reorder", "truncate", "flip", "replay")

    def __init__(self, inner: Any, rate: float, seed: int) -> None:
        self._inner, self._rate, self._rng = inner, rate, np.random.default_rng(seed)
        self._held: dict[str, bytes] = {"in": b"", "out": b""}
        self._old: dict[str, list[bytes]] = {"in": [], "out": []}
        self.done: Counter[str] = Counter()

    def write(self, data: bytes) -> None:
        damaged = self._spoil("out", data)
        if damaged:
            self._inner.write(damaged)

    def read(self, timeout_s: float) -> bytes:
        frames = re.findall(rb"\0[^\0]+\0|[^\0]+|\0", self._inner.read(timeout_s))
        return b"".join(self._spoil("in", frame) for frame in frames)

    def _spoil(self, way: str, data: bytes) -> bytes:
        held, self._held[way] = self._held[way], b""
        if self._rng.random() >= self._rate:
            return data + held
        kind = self.KINDS[int(self._rng.integers(len(self.KINDS)))]
        self.done[f"{way} {kind}"] += 1
        old = self._old[way]
        old.append(data)
        at = int(self._rng.integers(len(data)))
        if kind == "drop":
            return held
        if kind == "duplicate":
            return data + held + data
        if kind == "reorder":
            self._held[way] = data
            return held
        if kind == "truncate":
            return (data[:at] if self._rng.random() < 0.5 else data[at:]) + held
        if kind == "flip":
            return data[:at] + bytes([data[at] ^ 1 << int(self._rng.integers(8))]) + data[at + 1 :] + held
        return data + held + old[int(self._rng.integers(len(old)))]


@contextlib.contextmanager
def starting(make_folder: Callable[[str], Path]) -> Iterator[Callable[..., Program]]:
    """Under the sanitizers: a function that starts one, built once for each set of flags."""
    built: dict[tuple[str, ...], Path] = {}
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> Program:
            if flags not in built:
                extra = (*board.SANITIZE, *flags)
                built[flags] = build_device(HASHING, make_folder("device"), extra=extra).executable
            program = Program([str(built[flags])])
            stack.callback(program.close)
            return program

        yield start


@contextlib.contextmanager
def emulated(name: str, folder: Path, net: Path = HASHING) -> Iterator[str]:
    """Yield the port of the UART of a board that serves ``net``."""
    place = board.find_board(name)
    missing = board.missing_tools(place)
    if missing:
        pytest.skip(f"missing: {missing}")
    made = build_device(net, folder, board=place)
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    command = board.emulator(place, made.executable, serial=f"tcp:127.0.0.1:{number},server=on,wait=off")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", number), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1]
                time.sleep(0.05)
        yield f"tcp://127.0.0.1:{number}"
    finally:
        process.kill()
        process.communicate()

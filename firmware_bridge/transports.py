"""Where a device is: ``tcp://HOST:PORT``, a serial device, or a program on this machine (``loop://``)."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
from typing import Any, Iterator, Sequence

from firmware_bridge.device import Transport
from firmware_bridge.graph import LinkError

BAUD = 115_200


class Tcp:
    """A device behind a TCP socket: an emulator's UART, a serial-to-network adapter."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 5.0) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout_s)
        except OSError as error:
            raise _unreachable(f"tcp://{host}:{port}", error) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, timeout_s: float) -> bytes:
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            return b""
        except OSError as error:
            raise _closed(error.strerror) from error
        if not data:
            raise _closed("the other end hung up")
        return data

    def write(self, data: bytes) -> None:
        self._socket.settimeout(None)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise _closed(error.strerror) from error

    def close(self) -> None:
        self._socket.close()


class Serial:
    """A device on a serial line, 8 data bits, no parity, one stop bit; needs pyserial."""

    def __init__(self, name: str, *, baud: int = BAUD) -> None:
        try:
            import serial
        except ModuleNotFoundError:
            raise LinkError(
                f"{name}: serial ports need pyserial: pip install 'edge-derm[firmware]'",
                code="pyserial-missing",
            ) from None
        try:
            self._port: Any = serial.Serial(name, baud, timeout=0)
        except (OSError, ValueError) as error:
            raise _unreachable(name, error) from error

    def read(self, timeout_s: float) -> bytes:
        try:
            self._port.timeout = timeout_s
            first = self._port.read(1)
            self._port.timeout = 0
            return bytes(first + self._port.read(65536)) if first else b""
        except OSError as error:
            raise _closed(str(error)) from error

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except OSError as error:
            raise _closed(str(error)) from error

    def close(self) -> None:
        self._port.close()


class Program:
    """A device that is a process of this machine, its UART being standard input and output."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def read(self, timeout_s: float) -> bytes:
        ready, _, _ = select.select([self._out], [], [], timeout_s)
        if not ready:
            return b""
        data = os.read(self._out.fileno(), 65536)
        if not data:
            raise _closed(f"the program ended with status {self._process.wait()}")
        return data

    def write(self, data: bytes) -> None:
        try:
            sent = 0
            while sent < len(data):
                sent += os.write(self._in.fileno(), data[sent:])
        except OSError as error:
            raise _closed(error.strerror) from error

    def close(self) -> None:
        """End the program; returns when it has gone."""
        self._in.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()


@contextlib.contextmanager
def open_port(port: str, *, baud: int = BAUD) -> Iterator[Transport]:
    """Yield the transport to ``tcp://HOST:PORT`` or to a serial device (``/dev/ttyACM0``, ``COM3``).

    Raises LinkError: ``port-name``, ``port-unreachable``, ``pyserial-missing``.
    """
    place: Tcp | Serial
    if port.startswith("tcp://"):
        host, _, number = port[len("tcp://") :].rpartition(":")
        if not host or not number.isdigit() or not 0 < int(number) < 65536:
            raise LinkError(f"port: expected tcp://HOST:PORT, got {port[:80]!r}", code="port-name")
        place = Tcp(host.strip("[]"), int(number))
    elif "://" in port:
        raise LinkError(
            f"port: expected loop://, tcp://HOST:PORT or a serial device such as /dev/ttyACM0, got {port[:80]!r}",
            code="port-name",
        )
    else:
        place = Serial(port, baud=baud)
    try:
        yield place
    finally:
        place.close()


def _unreachable(name: str, error: Exception) -> LinkError:
    reason = getattr(error, "strerror", None) or str(error)
    return LinkError(
        f"{name}: cannot be opened: {reason}: check the cable, the name and who else uses it",
        code="port-unreachable",
    )


def _closed(reason: str | None) -> LinkError:
    return LinkError(f"the link to the device was closed: {reason or 'no reason given'}", code="link-closed")

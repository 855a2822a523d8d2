"""The same conversation over each transport: its name, a serial line, the UART of an emulated board."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import threading
import tty

import pytest

from firmware_bridge import board
from firmware_bridge.device import Device, Patience
from firmware_bridge.graph import LinkError
from firmware_bridge.transports import open_port
from hashing_device import STEADY, Faults, emulated, expected, make_inputs


@pytest.mark.parametrize("port", ["tcp://", "tcp://host", "tcp://host:0", "tcp://:70000", "udp://host:1"])
def test_a_port_that_is_none_is_named(port):
    with pytest.raises(LinkError) as caught:
        with open_port(port):
            pass
    assert caught.value.code == "port-name"


def test_a_port_that_cannot_be_opened_is_named():
    pytest.importorskip("serial", reason="pyserial is not installed")
    for port in ("tcp://127.0.0.1:1", "/dev/no-such-tty"):
        with pytest.raises(LinkError, match=re.escape(port)) as caught:
            with open_port(port):
                pass
        assert caught.value.code == "port-unreachable"


def test_a_serial_line_carries_the_conversation(hashing):
    """pyserial on one end of a pseudo-terminal, the device's program on the other."""
    pytest.importorskip("serial", reason="pyserial is not installed")
    line, (master, slave) = hashing(), pty.openpty()
    tty.setraw(master), tty.setraw(slave)
    ended = threading.Event()

    def carry(read, write):
        with contextlib.suppress(OSError, LinkError):
            while not ended.is_set():
                write(read())

    ways = [
        (lambda: os.read(master, 4096), line.write),
        (lambda: line.read(0.05), lambda d: os.write(master, d)),
    ]
    threads = [threading.Thread(target=carry, args=way, daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    try:
        with open_port(os.ttyname(slave)) as port:
            for data in make_inputs(5, seed=15):
                assert Device(port, patience=STEADY).infer(data).output.tobytes() == expected(data)
    finally:
        ended.set()
        os.write(slave, b"\0")
        threads[1].join(5)
        os.close(slave)
        os.close(master)


@pytest.mark.mcu
@pytest.mark.parametrize("name", [n for n, place in board.BOARDS.items() if place.emulated])
def test_a_board_behind_a_uart_on_tcp_answers(name, tmp_path):
    with emulated(name, tmp_path) as port, open_port(port) as line:
        device = Device(line, patience=STEADY)
        for data in make_inputs(3, seed=16):
            answer = device.infer(data)
            assert answer.output.tobytes() == expected(data)
            assert (
                5 < answer.device_us < 100
            )  # two passes of some instructions a byte over 768 bytes, 1 ns each


@pytest.mark.mcu
@pytest.mark.slow
def test_a_board_behind_a_bad_uart_is_never_misunderstood(tmp_path):
    with emulated("mps2-an500", tmp_path) as port, open_port(port) as line:
        device = Device(Faults(line, 0.1, seed=3), patience=Patience(0.05, 0.2, 100))
        for data in make_inputs(40, seed=17):
            assert device.infer(data).output.tobytes() == expected(data)

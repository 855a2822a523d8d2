"""A conversation with the device's C: nothing that a line does to bytes turns one result into another's."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge import board, link
from firmware_bridge.device import Device, Patience
from firmware_bridge.graph import LinkError
from firmware_bridge.link import Frame, SelfCheck, Type
from firmware_bridge.loopback import build_device
from firmware_bridge.transports import Program, open_port

HASHING = Path(__file__).parent / "link_net"  # its output is a hash of its input
STEADY = Patience(timeout_s=5.0)  # a loaded machine is late, not silent
QUICK = Patience(timeout_s=0.006, run_timeout_s=0.03, attempts=100)

if board.missing_tools(board.find_board("host")):
    pytest.skip("no C compiler on this machine", allow_module_level=True)


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

    def __init__(self, inner, rate: float, seed: int) -> None:
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


@pytest.fixture(scope="module")
def hashing(tmp_path_factory):
    """The hashing device under the sanitizers: a function that starts one, built once for each set of flags."""
    built: dict[tuple[str, ...], Path] = {}
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> Program:
            if flags not in built:
                folder = tmp_path_factory.mktemp("device")
                built[flags] = build_device(HASHING, folder, extra=(*board.SANITIZE, *flags)).executable
            program = Program([str(built[flags])])
            stack.callback(program.close)
            return program

        yield start


def test_a_device_says_what_it_serves(hashing):
    info = Device(hashing(), patience=STEADY).describe()
    assert info.model_sha256 == "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    assert info.labels_sha256 == "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
    assert info.input == link.TensorInfo("int8", (1, 16, 16, 3), 0.0078125, 0)
    assert info.output == link.TensorInfo("uint8", (1, 8), 0.00390625, -128)
    assert (info.max_payload, info.self_check, info.decides) == (512, SelfCheck.NONE, False)


def test_a_quiet_line_needs_no_retry(hashing):
    device = Device(hashing(), patience=STEADY)
    for data in make_inputs(20, seed=1):
        answer = device.infer(data)
        assert (answer.output.tobytes(), answer.retries, answer.decision) == (expected(data), 0, None)
    assert not device.ignored


@pytest.mark.slow
@pytest.mark.parametrize("rate, exchanges", [(0.02, 9000), (0.3, 1000)])
def test_ten_thousand_exchanges_over_a_bad_line_and_not_one_wrong(hashing, rate, exchanges):
    """Every result is the hash of its own input, with 2 % and with 30 % of all frames spoilt in six ways."""
    line = Faults(hashing(), rate, seed=7)
    device = Device(line, patience=QUICK)
    inputs = make_inputs(256, seed=2)
    hashes = [expected(data) for data in inputs]
    retries = 0
    for number in range(exchanges):
        at = number * 97 % 256
        answer = device.infer(inputs[at])
        assert answer.output.tobytes() == hashes[at], number
        retries += answer.retries
    assert retries > exchanges * rate / 2 and set(line.done) == {
        f"{way} {kind}" for way in ("in", "out") for kind in Faults.KINDS
    }


def test_a_new_host_after_a_lost_one_starts_clean(hashing):
    """The second host's session is numbered behind the first's: it says HELLO and gets its own results."""
    line, (first, second) = hashing(), make_inputs(2, seed=5)
    assert Device(line, session=5000, patience=STEADY).infer(first).output.tobytes() == expected(first)
    assert Device(line, session=4000, patience=STEADY).infer(second).output.tobytes() == expected(second)


def test_a_late_hello_of_an_earlier_host_costs_a_retry_and_no_result(hashing):
    class Late:
        """Lets the HELLO of another session, numbered higher, slip in before each seventh write."""

        def __init__(self, inner):
            self.inner, self.count, self.read = inner, 0, inner.read

        def write(self, data):
            self.count += 1
            if self.count % 7 == 0:
                self.inner.write(link.encode(Frame(Type.HELLO, 1, link.hello(5_000_000))))
            self.inner.write(data)

    device = Device(Late(hashing()), session=4000, patience=STEADY)
    for data in make_inputs(10, seed=6):
        assert device.infer(data).output.tobytes() == expected(data)
    assert device.ignored["sequence"] >= 5


def test_an_answer_to_another_input_is_not_taken(hashing):
    """Same sequence, same job, sound frame, but computed from other bytes: as if it had not come."""

    class Liar:
        def __init__(self, inner):
            self.inner, self.write = inner, inner.write

        def read(self, timeout_s):
            data = self.inner.read(timeout_s)
            out = b""
            for frame in link.Decoder().feed(data):
                if frame.type == Type.OUTPUT:
                    output = link.read_output(frame)
                    forged = link.Output(output.job, output.input_crc ^ 1, 1, -2, SelfCheck.NONE, bytes(8))
                    out += link.encode(Frame(frame.type, frame.sequence, link.write_output(forged)))
            return out + data

    device = Device(Liar(hashing()), patience=STEADY)
    (data,) = make_inputs(1, seed=8)
    assert device.infer(data).output.tobytes() == expected(data)
    assert device.ignored["type"] == 1


def test_a_transfer_is_resumed_where_it_broke_off(hashing):
    inner = hashing()

    class Breaks:
        """Closes after the first chunk has been accepted; afterwards counts the chunks."""

        def __init__(self, broken):
            self.broken, self.chunks = broken, 0

        def write(self, data):
            chunk = data[3] == Type.INPUT or b"\x02" in data[2:4]
            self.chunks += chunk
            if self.broken and self.chunks == 2:
                raise LinkError("cut", code="link-closed")
            inner.write(data)

        def read(self, timeout_s):
            return inner.read(timeout_s)

    device = Device(Breaks(broken=True), patience=STEADY)
    (data,) = make_inputs(1, seed=9)
    with pytest.raises(LinkError, match="cut"):
        device.infer(data)
    sent: list[tuple[int, int]] = []

    class Watches(Breaks):
        def write(self, wire):
            for frame in link.Decoder().feed(wire):
                if frame.type == Type.INPUT:
                    sent.append((int.from_bytes(frame.payload[4:8], "little"), len(frame.payload) - 8))
            inner.write(wire)

    device.attach(Watches(broken=False))
    assert device.infer(data).output.tobytes() == expected(data)
    assert sent == [(0, 504), (504, 264)]  # the first only asks how far the device is
    device.infer(data)  # a finished inference is not resumed but done again
    assert sent == [(0, 504), (504, 264)] * 2


def test_a_repeated_run_is_answered_without_computing_again(hashing):
    """The run destroys its input, so a second computation would give another output."""
    inner = hashing()

    class Deaf:
        def __init__(self):
            self.heard, self.write = 0, inner.write

        def read(self, timeout_s):
            data = inner.read(timeout_s)
            outputs = [f for f in link.Decoder().feed(data) if f.type == Type.OUTPUT]
            self.heard += len(outputs)
            return b"" if outputs and self.heard < 3 else data

    (data,) = make_inputs(1, seed=10)
    answer = Device(Deaf(), patience=QUICK).infer(data)
    assert answer.output.tobytes() == expected(data) and answer.retries >= 2


def ask(line, kind: int, payload: bytes) -> Frame:
    line.write(link.encode(Frame(kind, 77, payload)))
    decoder, deadline = link.Decoder(), time.monotonic() + 5
    while time.monotonic() < deadline:
        for frame in decoder.feed(line.read(1)):
            return frame
    raise AssertionError("no answer")


@pytest.mark.parametrize(
    "kind, payload, code, detail",
    [
        (0x10, b"", link.Refusal.UNKNOWN_TYPE, 0x10),
        (Type.HELLO, bytes(5), link.Refusal.BAD_LENGTH, 5),
        (Type.INPUT, bytes(8), link.Refusal.BAD_LENGTH, 8),
        (Type.RUN, bytes(9), link.Refusal.BAD_LENGTH, 9),
        (Type.INPUT, link.input_chunk(99, 0, b"x"), link.Refusal.STALE_JOB, 99),
        (Type.INPUT, link.input_chunk(101, 767, b"xy"), link.Refusal.OUT_OF_RANGE, 768),
        (Type.INPUT, link.input_chunk(101, 0xFFFFFFFF, b"xy"), link.Refusal.OUT_OF_RANGE, 768),
        (Type.RUN, link.run(100, 0), link.Refusal.INPUT_INCOMPLETE, 0),
        (Type.RUN, link.run(101, 0), link.Refusal.INPUT_INCOMPLETE, 0),
        (Type.RUN, link.run(99, 0), link.Refusal.STALE_JOB, 99),
    ],
)
def test_a_device_names_what_it_refuses(hashing, kind, payload, code, detail):
    line = hashing()
    ask(line, Type.HELLO, link.hello(100))
    frame = ask(line, kind, payload)
    assert (frame.type, frame.sequence) == (Type.ERROR, 77)
    assert link.read_error(frame) == link.Refused(100, code, kind, detail)


def test_an_input_that_changed_in_memory_or_on_the_way_is_refused_and_sent_again(hashing):
    line, (data,) = hashing(), make_inputs(1, seed=12)
    ask(line, Type.HELLO, link.hello(100))
    ask(line, Type.INPUT, link.input_chunk(101, 0, data[:500]))
    assert link.read_accepted(ask(line, Type.INPUT, link.input_chunk(101, 500, data[500:]))) == (101, 768)
    refused = link.read_error(ask(line, Type.RUN, link.run(101, 1)))
    assert refused == link.Refused(101, link.Refusal.INPUT_MISMATCH, Type.RUN, 1)
    assert link.read_accepted(ask(line, Type.INPUT, link.input_chunk(101, 500, data[500:]))) == (101, 0)


@pytest.mark.parametrize("status", [0, 1])
def test_a_self_check_is_reported_and_a_failed_one_stops_everything(hashing, status):
    device = Device(hashing(f"-DSELF_TEST={status}"), patience=STEADY)
    (data,) = make_inputs(1, seed=13)
    assert device.describe().self_check == (SelfCheck.FAILED if status else SelfCheck.PASSED)
    if not status:
        assert device.infer(data).self_check == SelfCheck.PASSED
        return
    with pytest.raises(LinkError, match="flash it again") as caught:
        device.infer(data)
    assert caught.value.code == "self-check"


def test_a_decision_comes_with_the_output(hashing):
    device = Device(hashing("-DDECIDES"), patience=STEADY)
    for data in make_inputs(20, seed=14):
        answer = device.infer(data)
        abstains, label = answer.output[0] < 128, int(answer.output[1]) & 3
        assert answer.decision == (-1 if abstains else label)


def test_silence_ends_in_one_line_that_says_what_to_check():
    class Silent:
        def write(self, data):
            pass

        def read(self, timeout_s):
            return b""

    with pytest.raises(LinkError, match="check the port") as caught:
        Device(Silent(), patience=Patience(timeout_s=0.001, attempts=3)).infer(bytes(768))
    assert caught.value.code == "no-answer"


def test_a_wrong_number_of_bytes_is_refused_before_it_is_sent(hashing):
    with pytest.raises(LinkError, match="768") as caught:
        Device(hashing(), patience=STEADY).infer(bytes(767))
    assert caught.value.code == "input-size"


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
    import os
    import pty
    import threading
    import tty

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


@contextlib.contextmanager
def emulated(name: str, folder: Path, net: Path = HASHING):
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

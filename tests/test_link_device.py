"""A conversation with the device's C: nothing that a line does to bytes turns one result into another's."""

from __future__ import annotations

import time

import pytest

from firmware_bridge import link
from firmware_bridge.device import Device, Patience
from firmware_bridge.graph import LinkError
from firmware_bridge.link import Frame, SelfCheck, Type
from hashing_device import QUICK, STEADY, Faults, expected, make_inputs


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

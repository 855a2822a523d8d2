"""Both codecs of the link keep to SPEC.md, byte for byte, whatever comes down the line."""

from __future__ import annotations

import re
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import board, link
from firmware_bridge.graph import LinkError
from firmware_bridge.link import Frame

HERE = Path(__file__).parent
ROOM = 512
STATUS = {
    -1: "cobs-malformed",
    -2: "frame-too-short",
    -3: "crc-mismatch",
    -4: "unknown-version",
    -5: "length-mismatch",
    -6: "frame-too-long",
}


def read_vectors() -> list[tuple[str, str, bytes]]:
    lines = (board.FIRMWARE / "link_vectors.txt").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if not line.startswith("#")]
    return [(name, outcome, bytes.fromhex(wire)) for name, outcome, wire in rows]


VECTORS = read_vectors()


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """link.c under the sanitizers: bytes → what came of them, and the frames encoded again."""
    sources = [HERE / "link_codec.c", board.FIRMWARE / "link.c"]
    place = board.find_board("host")
    if board.missing_tools(place):
        pytest.skip("no C compiler on this machine")
    made = board.build(
        sources,
        place,
        out=tmp_path_factory.mktemp("codec"),
        include=[board.FIRMWARE],
        defines=[f"MAX_PAYLOAD={ROOM}"],
        extra=board.SANITIZE,
    )

    def decode(wire: bytes) -> tuple[list[str], list[bytes]]:
        done = subprocess.run([made.executable], input=wire, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        outcomes, again = [], []
        for line in done.stdout.decode().splitlines():
            if line.startswith("frame "):
                outcome, _, encoded = line.rpartition(" ")
                again.append(bytes.fromhex(encoded))
                outcomes.append(outcome)
            else:
                outcomes.append(STATUS[int(line)])
        return outcomes, again

    return decode


def decode_in_python(wire: bytes) -> list[str]:
    decoder, outcomes, dropped = link.Decoder(ROOM), [], 0
    for byte in wire:
        frames = list(decoder.feed(bytes([byte])))
        outcomes += [f"frame {f.type:02x} {f.sequence:04x} {f.payload.hex()}" for f in frames]
        if sum(decoder.rejected.values()) > dropped:
            dropped += 1
            outcomes.append("dropped")
    return outcomes


def test_the_checksum_and_the_stuffing_are_the_published_ones():
    assert zlib.crc32(b"123456789") == 0xCBF43926
    # The examples of Cheshire and Baker's scheme as widely reprinted.
    for plain, stuffed in [
        (b"\x00", b"\x01\x01"),
        (b"\x00\x00", b"\x01\x01\x01"),
        (b"\x11\x22\x00\x33", b"\x03\x11\x22\x02\x33"),
        (b"\x11\x00\x00\x00", b"\x02\x11\x01\x01\x01"),
        (bytes(range(1, 255)), b"\xff" + bytes(range(1, 255))),
        (bytes(range(0, 255)), b"\x01\xff" + bytes(range(1, 255))),
        (bytes(range(1, 256)), b"\xff" + bytes(range(1, 255)) + b"\x02\xff"),
        (bytes([*range(2, 256), 0]), b"\xff" + bytes(range(2, 256)) + b"\x01\x01"),
        (bytes([*range(3, 256), 0, 1]), b"\xfe" + bytes(range(3, 256)) + b"\x02\x01"),
    ]:
        assert link.cobs(plain) == stuffed and link.uncobs(stuffed) == plain


def test_a_frame_written_out_by_hand():
    """RUNNING of job 5, sequence 7: the bytes of SPEC.md's table, stuffed by eye."""
    body = bytes([1, 0x84, 7, 0, 4, 0, 5, 0, 0, 0])
    crc = zlib.crc32(body).to_bytes(4, "little")
    wire = bytes([0, 4, 1, 0x84, 7, 2, 4, 2, 5, 1, 1, 5]) + crc + b"\0"
    assert 0 not in crc and link.encode(Frame(link.Type.RUNNING, 7, b"\5\0\0\0")) == wire


@pytest.mark.parametrize("name, outcome, wire", VECTORS, ids=[v[0] for v in VECTORS])
def test_the_python_codec_keeps_to_the_vectors(name, outcome, wire):
    decoder = link.Decoder(ROOM)
    frames = list(decoder.feed(wire))
    if outcome.startswith("frame "):
        assert [f"frame {f.type:02x} {f.sequence:04x} {f.payload.hex()}" for f in frames] == [outcome]
        assert link.encode(frames[0]) == wire
    else:
        assert frames == [] and decoder.rejected == {outcome: 1}


def test_the_c_codec_keeps_to_the_vectors(codec):
    outcomes, again = codec(b"".join(wire for _, _, wire in VECTORS))
    assert outcomes == [outcome for _, outcome, _ in VECTORS]
    assert again == [wire for _, outcome, wire in VECTORS if outcome.startswith("frame ")]


def test_the_specification_names_every_refusal_and_size():
    text = (board.FIRMWARE.parent / "SPEC.md").read_text()
    assert all(f"`{code}`" in text for code in STATUS.values())
    described = {int(m[1]) for m in re.finditer(r"^\| (\d) \| \w", text, re.MULTILINE)}
    assert {int(code) for code in link.Refusal} <= described


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1200))
def test_stuffing_is_undone_and_has_no_zero(data):
    stuffed = link.cobs(data)
    assert 0 not in stuffed and link.uncobs(stuffed) == data
    assert len(data) < len(stuffed) <= len(data) + len(data) // 254 + 1 or not data


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=700), st.integers(1, 9))
def test_a_frame_survives_any_cutting_of_the_stream(kind, sequence, payload, step):
    frame, decoder = Frame(kind, sequence, payload), link.Decoder()
    wire = link.encode(frame) * 2
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
    assert [f for piece in pieces for f in decoder.feed(piece)] == [frame, frame]
    assert not decoder.rejected


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.data())
def test_one_or_two_changed_bytes_never_make_another_frame(payload, data):
    frame = Frame(2, 9, payload)
    wire = bytearray(link.encode(frame))
    for _ in range(data.draw(st.integers(1, 2))):
        wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    assert all(got == frame for got in link.Decoder().feed(bytes(wire)))


def damage(wire: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(0, 4))):
        at, size = int(rng.integers(len(wire))), int(rng.integers(1, 40))
        match int(rng.integers(5)):
            case 0:
                wire[at] ^= 1 << int(rng.integers(8))
            case 1:
                del wire[at : at + size]
            case 2:
                wire[at:at] = wire[at : at + size]
            case 3:
                wire[at : at + size] = rng.integers(0, 256, size, np.uint8).tobytes()
            case _:
                wire[at] = 0
        wire = wire or bytearray(1)
    return wire


@pytest.mark.slow
def test_both_codecs_read_damaged_streams_alike(codec):
    """20,000 frames, most of them damaged: the same frames out of both, under the sanitizers, drops counted alike."""
    rng, stream = np.random.default_rng(4), bytearray()
    for _ in range(20_000):
        payload = rng.integers(0, 256, int(rng.integers(0, 60)), np.uint8)
        payload[rng.random(payload.size) < 0.3] = 0
        frame = Frame(int(rng.integers(256)), int(rng.integers(65536)), payload.tobytes())
        stream += damage(bytearray(link.encode(frame)), rng)
    in_c = [o if o.startswith("frame ") else "dropped" for o in codec(bytes(stream))[0]]
    assert in_c == decode_in_python(bytes(stream))
    assert 3000 < in_c.count("dropped") < 40_000 and len(in_c) - in_c.count("dropped") > 3000


def test_a_decoders_memory_is_bounded():
    decoder = link.Decoder(64)
    for _ in range(2000):
        assert list(decoder.feed(b"\x55" * 1000)) == []
    assert len(decoder._pending) <= 80
    assert list(decoder.feed(b"\0" + link.encode(Frame(1, 2, b"abc")))) == [Frame(1, 2, b"abc")]
    assert decoder.rejected == {"frame-too-long": 1}


@pytest.mark.parametrize(
    "read, kind", [(link.read_device, 0x81), (link.read_accepted, 0x82), (link.read_error, 0xFF)]
)
def test_a_payload_of_the_wrong_length_is_a_named_error(read, kind):
    for size in (0, 3, 7, 9, 127, 129):
        with pytest.raises(LinkError) as caught:
            read(Frame(kind, 0, bytes(size)))
        assert caught.value.code == "payload-length"


def test_a_description_that_cannot_be_is_a_named_error():
    good = next(bytes.fromhex(o.split()[-1]) for n, o, _ in VECTORS if n == "device")
    assert link.write_device(link.read_device(Frame(0x81, 0, good))) == good
    # type, rank, first dimension, scale (NaN, 0), self-check
    for at, value in [
        (72, b"\3"),
        (73, b"\0"),
        (73, b"\5"),
        (76, bytes(4)),
        (76, b"\xff" * 4),
        (70, b"\3"),
    ] + [
        (92, b"\0\0\xc0\x7f"),
        (92, bytes(4)),
    ]:
        with pytest.raises(LinkError) as caught:
            link.read_device(Frame(0x81, 0, good[:at] + value + good[at + len(value) :]))
        assert caught.value.code == "payload-field"


def test_a_field_that_does_not_fit_is_refused():
    for frame in (Frame(256, 0, b""), Frame(1, 65536, b""), Frame(1, -1, b""), Frame(1, 0, bytes(65536))):
        with pytest.raises(LinkError) as caught:
            link.encode(frame)
        assert caught.value.code == "frame-field"

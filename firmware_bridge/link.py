"""Frames and messages of the link between a host and a device: values in, bytes out. ``SPEC.md`` says every byte.

A frame on the wire is ``00 COBS(version type sequence length payload crc) 00``. What does not decode exactly is
dropped by a receiver (``Decoder`` counts why), so that loss, damage and cuts all look like silence; a retry repairs
silence. Every payload starts with the number of the job it belongs to, and an OUTPUT also carries the CRC-32 of the
input it was computed from: neither a late nor a repeated answer can be taken for another request's.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from typing import Iterator

from firmware_bridge.graph import LinkError

VERSION = 1
MAX_PAYLOAD = 0xFFFF
DTYPES = {1: "int8", 2: "uint8"}

_HEAD = struct.Struct("<BBHH")
_CRC = struct.Struct("<I")
_TENSOR = struct.Struct("<BBH4Ifi")
_HELLO_REPLY = struct.Struct("<I32s32sHBB")
_OUTPUT = struct.Struct("<IIIiB3s")
_ERROR = struct.Struct("<IHHI")
_TWO = struct.Struct("<II")
_ONE = struct.Struct("<I")


class Type(IntEnum):
    """The byte that says what a payload is; bit 7 is set in a device's frames."""

    HELLO = 0x01
    INPUT = 0x02
    RUN = 0x03
    DEVICE = 0x81
    ACCEPTED = 0x82
    OUTPUT = 0x83
    RUNNING = 0x84
    ERROR = 0xFF


class Refusal(IntEnum):
    """Why a device answers ERROR."""

    UNKNOWN_TYPE = 1
    BAD_LENGTH = 2
    STALE_JOB = 3
    OUT_OF_RANGE = 4
    INPUT_INCOMPLETE = 5
    INPUT_MISMATCH = 6
    SELF_CHECK_FAILED = 7


class SelfCheck(IntEnum):
    """What a device says of its own test with stored inputs and outputs."""

    NONE = 0
    PASSED = 1
    FAILED = 2


@dataclass(frozen=True)
class Frame:
    """One message as it is framed; ``sequence`` is 16 bits, an answer repeats its request's."""

    type: int
    sequence: int
    payload: bytes


@dataclass(frozen=True)
class TensorInfo:
    """Input or output of the device's model: real = scale · (stored − zero_point)."""

    dtype: str  # int8 or uint8
    shape: tuple[int, ...]  # 1 to 4 dimensions
    scale: float
    zero_point: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class DeviceInfo:
    """What a device serves: the answer to HELLO."""

    job: int
    model_sha256: str
    labels_sha256: str | None  # None: the firmware was built without labels
    max_payload: int
    self_check: SelfCheck
    decides: bool  # OUTPUT carries a calibrated class or an abstention
    input: TensorInfo
    output: TensorInfo


@dataclass(frozen=True)
class Output:
    """One result; ``decision`` is a class, −1 for abstained, −2 where the firmware does not decide."""

    job: int
    input_crc: int
    device_us: int
    decision: int
    self_check: SelfCheck
    data: bytes


@dataclass(frozen=True)
class Refused:
    """A device's ERROR: its ``code`` (see ``Refusal``), the refused frame's type, a figure that belongs to it."""

    job: int
    code: int
    request: int
    detail: int


def encode(frame: Frame) -> bytes:
    """Return the bytes of ``frame`` on the wire, both delimiters included.

    Raises LinkError ``frame-field`` where type, sequence or length do not fit their fields.

    >>> encode(Frame(Type.RUNNING, 7, bytes([5, 0, 0, 0]))).hex(" ")
    '00 04 01 84 07 02 04 02 05 01 01 05 36 e9 7b 91 00'
    """
    fits = 0 <= frame.type <= 0xFF and 0 <= frame.sequence <= 0xFFFF and len(frame.payload) <= MAX_PAYLOAD
    if not fits:
        raise LinkError(
            f"frame: expected type <= 255, sequence <= 65535 and payload <= {MAX_PAYLOAD} bytes, got "
            f"{frame.type}, {frame.sequence} and {len(frame.payload)}",
            code="frame-field",
        )
    body = _HEAD.pack(VERSION, frame.type, frame.sequence, len(frame.payload)) + frame.payload
    return b"\0" + cobs(body + _CRC.pack(zlib.crc32(body))) + b"\0"


def decode(packet: bytes) -> Frame:
    """Return the frame of ``packet``, the bytes between two delimiters.

    Raises LinkError: ``cobs-malformed``, ``frame-too-short``, ``crc-mismatch``, ``unknown-version``,
    ``length-mismatch``, in this order of checks.
    """
    body = uncobs(packet)
    if len(body) < _HEAD.size + _CRC.size:
        raise _broken("frame-too-short", f"at least {_HEAD.size + _CRC.size} bytes", len(body))
    stored = _CRC.unpack(body[-_CRC.size :])[0]
    computed = zlib.crc32(body[: -_CRC.size])
    if stored != computed:
        raise _broken("crc-mismatch", f"CRC {computed:08x}", f"{stored:08x}")
    version, kind, sequence, length = _HEAD.unpack_from(body)
    if version != VERSION:
        raise _broken("unknown-version", f"version {VERSION}", version)
    payload = body[_HEAD.size : -_CRC.size]
    if length != len(payload):
        raise _broken("length-mismatch", f"{length} bytes of payload", len(payload))
    return Frame(kind, sequence, payload)


def cobs(data: bytes) -> bytes:
    """Return ``data`` without zero bytes (Cheshire and Baker, 1999, consistent overhead byte stuffing)."""
    out = bytearray()
    runs = data.split(b"\0")
    for number, run in enumerate(runs):
        last = number == len(runs) - 1
        while len(run) >= 254:
            out += b"\xff" + run[:254]
            run = run[254:]
            if last and not run:
                return bytes(out)
        out.append(len(run) + 1)
        out += run
    return bytes(out)


def uncobs(packet: bytes) -> bytes:
    """Return what ``cobs`` was given; LinkError ``cobs-malformed`` for a zero byte or a group that is cut."""
    out, at = bytearray(), 0
    while at < len(packet):
        code = packet[at]
        group = packet[at + 1 : at + code]
        if code == 0 or len(group) != code - 1 or 0 in group:
            raise _broken("cobs-malformed", "groups of non-zero bytes", f"group {code} at byte {at}")
        out += group
        at += code
        if code != 0xFF and at < len(packet):
            out.append(0)
    return bytes(out)


class Decoder:
    """Bytes as they come → whole frames; ``rejected`` counts what was dropped, by error code."""

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        raw = _HEAD.size + max_payload + _CRC.size
        self._max_payload = max_payload
        self._limit = raw + raw // 254 + 1
        self._pending = bytearray()
        self._too_long = False
        self.rejected: Counter[str] = Counter()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that ``data`` completes; memory stays below one frame whatever comes."""
        *ended, rest = bytes(data).split(b"\0")
        for piece in ended:
            self._append(piece)
            yield from self._finish()
        self._append(rest)

    def _append(self, piece: bytes) -> None:
        self._too_long |= len(self._pending) + len(piece) > self._limit
        self._pending += b"" if self._too_long else piece

    def _finish(self) -> Iterator[Frame]:
        packet, too_long = bytes(self._pending), self._too_long
        self._pending, self._too_long = bytearray(), False
        if not packet and not too_long:
            return
        try:
            if too_long:
                raise _broken("frame-too-long", f"at most {self._limit} bytes", "more")
            frame = decode(packet)
            if len(frame.payload) > self._max_payload:
                raise _broken("frame-too-long", f"at most {self._max_payload} bytes", len(frame.payload))
        except LinkError as error:
            self.rejected[error.code] += 1
            return
        yield frame


def hello(job: int) -> bytes:
    """Payload of HELLO: jobs of this session are numbered from ``job`` + 1."""
    return _ONE.pack(job)


def input_chunk(job: int, offset: int, data: bytes) -> bytes:
    """Payload of INPUT: ``data`` belongs at ``offset`` of the input tensor of ``job``."""
    return _TWO.pack(job, offset) + data


def run(job: int, input_crc: int) -> bytes:
    """Payload of RUN: compute ``job``, whose whole input has this CRC-32."""
    return _TWO.pack(job, input_crc)


CHUNK_HEAD = _TWO.size


def read_job(frame: Frame) -> int:
    """Return the job a device's frame belongs to; LinkError ``payload-length`` where there is none."""
    if len(frame.payload) < _ONE.size:
        raise _payload(frame, f"at least {_ONE.size}")
    return int(_ONE.unpack_from(frame.payload)[0])


def read_accepted(frame: Frame) -> tuple[int, int]:
    """Payload of ACCEPTED → (job, bytes of its input received without a gap)."""
    job, received = _unpack(_TWO, frame)
    return job, received


def read_device(frame: Frame) -> DeviceInfo:
    """Payload of DEVICE; LinkError ``payload-length``, ``payload-field``."""
    if len(frame.payload) != _HELLO_REPLY.size + 2 * _TENSOR.size:
        raise _payload(frame, f"{_HELLO_REPLY.size + 2 * _TENSOR.size}")
    job, model, labels, max_payload, check, flags = _HELLO_REPLY.unpack_from(frame.payload)
    return DeviceInfo(
        job=job,
        model_sha256=model.hex(),
        labels_sha256=labels.hex() if any(labels) else None,
        max_payload=max_payload,
        self_check=_self_check(check),
        decides=bool(flags & 1),
        input=_read_tensor(frame.payload[_HELLO_REPLY.size :]),
        output=_read_tensor(frame.payload[_HELLO_REPLY.size + _TENSOR.size :]),
    )


def read_output(frame: Frame) -> Output:
    """Payload of OUTPUT; LinkError ``payload-length``, ``payload-field``."""
    if len(frame.payload) <= _OUTPUT.size:
        raise _payload(frame, f"more than {_OUTPUT.size}")
    job, crc, device_us, decision, check, _ = _OUTPUT.unpack_from(frame.payload)
    return Output(job, crc, device_us, decision, _self_check(check), frame.payload[_OUTPUT.size :])


def read_error(frame: Frame) -> Refused:
    """Payload of ERROR; LinkError ``payload-length``."""
    return Refused(*_unpack(_ERROR, frame))


def write_device(info: DeviceInfo) -> bytes:
    """Payload of DEVICE, as a device writes it."""
    labels = bytes.fromhex(info.labels_sha256) if info.labels_sha256 else bytes(32)
    model = bytes.fromhex(info.model_sha256)
    head = _HELLO_REPLY.pack(
        info.job, model, labels, info.max_payload, int(info.self_check), int(info.decides)
    )
    return head + _write_tensor(info.input) + _write_tensor(info.output)


def write_output(output: Output) -> bytes:
    """Payload of OUTPUT, as a device writes it."""
    fixed = (output.job, output.input_crc, output.device_us, output.decision, int(output.self_check))
    return _OUTPUT.pack(*fixed, bytes(3)) + output.data


def write_accepted(job: int, received: int) -> bytes:
    """Payload of ACCEPTED, as a device writes it."""
    return _TWO.pack(job, received)


def write_error(refused: Refused) -> bytes:
    """Payload of ERROR, as a device writes it."""
    return _ERROR.pack(refused.job, refused.code, refused.request, refused.detail)


def _write_tensor(info: TensorInfo) -> bytes:
    number = {name: code for code, name in DTYPES.items()}[info.dtype]
    dims = (*info.shape, 1, 1, 1)[:4]
    return _TENSOR.pack(number, len(info.shape), 0, *dims, info.scale, info.zero_point)


def _read_tensor(data: bytes) -> TensorInfo:
    kind, rank, _, d0, d1, d2, d3, scale, zero = _TENSOR.unpack_from(data)
    shape = (d0, d1, d2, d3)[:rank]
    sound = kind in DTYPES and 1 <= rank <= 4 and 0 < math.prod((d0, d1, d2, d3)) < 1 << 31
    if not (sound and math.isfinite(scale) and scale > 0):
        raise LinkError(
            f"DEVICE: expected an int8 or uint8 tensor of 1 to 4 dimensions with a scale, got type {kind}, "
            f"rank {rank}, shape {list((d0, d1, d2, d3))}, scale {scale}",
            code="payload-field",
        )
    return TensorInfo(DTYPES[kind], shape, scale, zero)


def _self_check(value: int) -> SelfCheck:
    if value not in list(SelfCheck):
        raise LinkError(f"self-check: expected 0, 1 or 2, got {value}", code="payload-field")
    return SelfCheck(value)


def _unpack(layout: struct.Struct, frame: Frame) -> tuple[int, ...]:
    if len(frame.payload) != layout.size:
        raise _payload(frame, str(layout.size))
    return layout.unpack(frame.payload)


def _payload(frame: Frame, expected: str) -> LinkError:
    return LinkError(
        f"frame of type 0x{frame.type:02x}: expected {expected} bytes of payload, got {len(frame.payload)}",
        code="payload-length",
    )


def _broken(code: str, expected: str, got: object) -> LinkError:
    return LinkError(f"frame: expected {expected}, got {got}", code=code)

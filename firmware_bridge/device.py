"""The host's side of the conversation in ``SPEC.md``: one device over any transport, retries, no mistaken result.

One request is open at a time and is repeated until its answer comes or patience ends. What carries another sequence
or job is somebody else's answer and is ignored; a result is taken only with the job and the CRC-32 of the very input
that was given.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections import Counter, deque
from dataclasses import dataclass
from typing import Callable, Protocol, TypeVar

import numpy as np

from firmware_bridge import link
from firmware_bridge.graph import LinkError
from firmware_bridge.link import DeviceInfo, Frame, Output, Refusal, Refused, SelfCheck, Type

T = TypeVar("T")


class Transport(Protocol):
    """A stream of bytes each way."""

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, b"" after ``timeout_s`` without any; LinkError ``link-closed`` at the end."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``; LinkError ``link-closed``."""


@dataclass(frozen=True)
class Patience:
    """When a request is repeated (a RUN that the device has acknowledged: after ``run_timeout_s``), how often in all."""

    timeout_s: float = 0.5
    run_timeout_s: float = 60.0
    attempts: int = 10


@dataclass(frozen=True)
class Answer:
    """One inference: ``output`` as stored, int8 or uint8 [classes]; ``retries`` counts repeated requests.

    ``decision`` is the firmware's own: a class, −1 abstained, None where it does not decide.
    """

    output: np.ndarray
    device_us: int
    retries: int
    decision: int | None
    self_check: SelfCheck

    @property
    def label_index(self) -> int:
        """The first of the largest scores."""
        return int(np.argmax(self.output))


class Device:
    """One conversation with a device.

    ``session`` is the number its jobs are counted from, random unless given. ``ignored`` counts frames that
    answered no open request.
    """

    def __init__(
        self, transport: Transport, *, patience: Patience = Patience(), session: int | None = None
    ) -> None:
        self._transport = transport
        self._patience = patience
        self._session = secrets.randbits(32) if session is None else session & 0xFFFFFFFF
        self._job = self._session
        self._sequence = secrets.randbits(16)
        self._unfinished: bytes | None = None  # the input whose inference was broken off
        self._info: DeviceInfo | None = None
        self._run_s: float | None = None  # how long a RUN took, seen from here
        self._retries = 0
        self.attach(transport)
        self.ignored: Counter[str] = Counter()

    def attach(self, transport: Transport) -> None:
        """Go on over another transport to the same device; a transfer broken off is resumed, not repeated."""
        self._transport = transport
        self._decoder = link.Decoder()
        self._inbox: deque[Frame] = deque()

    def describe(self) -> DeviceInfo:
        """Return what the device serves, asking it the first time; LinkError ``no-answer`` and those of ``infer``."""
        if self._info is None:
            self._info = self._hello()
        return self._info

    def infer(self, data: bytes) -> Answer:
        """Return the device's answer to the bytes of its input tensor.

        Raises LinkError: ``input-size``; ``no-answer`` after ``patience.attempts``; ``refused``; ``link-closed``;
        ``self-check`` if the device says its own test failed; ``payload-length``, ``payload-field``,
        ``output-size`` for a device that does not keep to the specification.
        """
        self._retries = 0
        info = self.describe()
        if len(data) != info.input.bytes:
            raise LinkError(
                f"input: expected {info.input.bytes} bytes, {info.input.dtype} {list(info.input.shape)}, "
                f"got {len(data)}",
                code="input-size",
            )
        if self._unfinished != data:
            self._job = (self._job + 1) & 0xFFFFFFFF
        self._unfinished = data
        answer = self._finish(data, info)
        self._unfinished = None
        return answer

    def _finish(self, data: bytes, info: DeviceInfo) -> Answer:
        offset = 0
        for _ in range(self._patience.attempts):
            try:
                self._send_input(data, offset, info)
                return self._answer(self._run(zlib.crc32(data)), info)
            except _RefusedError as refusal:
                offset = self._recover(refusal.refused, len(data))
                self._retries += 1
        raise self._no_answer("a result")

    def _send_input(self, data: bytes, offset: int, info: DeviceInfo) -> None:
        size, stuck = info.max_payload - link.CHUNK_HEAD, 0
        while offset < len(data):
            payload = link.input_chunk(self._job, offset, data[offset : offset + size])
            received = self._ask(Type.INPUT, payload, Type.ACCEPTED, lambda f: link.read_accepted(f)[1])
            stuck = stuck + 1 if received <= offset else 0
            if received > len(data) or stuck > self._patience.attempts:
                raise LinkError(
                    f"ACCEPTED: expected {offset} to {len(data)} bytes received, got {received}",
                    code="payload-field",
                )
            offset = received

    def _run(self, crc: int) -> Output:
        started = time.monotonic()
        output = self._ask(Type.RUN, link.run(self._job, crc), Type.OUTPUT, _same_input(crc))
        self._run_s = time.monotonic() - started
        return output

    def _answer(self, output: Output, info: DeviceInfo) -> Answer:
        if output.self_check == SelfCheck.FAILED:
            raise _failed_check()
        if len(output.data) != info.output.bytes:
            raise LinkError(
                f"OUTPUT: expected {info.output.bytes} bytes, as DEVICE said, got {len(output.data)}",
                code="output-size",
            )
        stored = np.frombuffer(output.data, info.output.dtype)
        decision = output.decision if info.decides else None
        return Answer(stored, output.device_us, self._retries, decision, output.self_check)

    def _recover(self, refused: Refused, whole: int) -> int:
        """Return the offset to go on from, or raise what no repetition repairs."""
        if refused.code == Refusal.STALE_JOB:
            self._hello()
        elif refused.code == Refusal.INPUT_INCOMPLETE:
            return min(refused.detail, whole) if refused.job == self._job else 0
        elif refused.code == Refusal.SELF_CHECK_FAILED:
            raise _failed_check()
        elif refused.code != Refusal.INPUT_MISMATCH:
            known = [r.name.lower().replace("_", "-") for r in Refusal if r == refused.code]
            raise LinkError(
                f"the device refused a frame of type 0x{refused.request:02x}: "
                f"{known[0] if known else 'an unknown reason'} ({refused.code}, detail {refused.detail}): "
                "check that firmware and host speak the same version of SPEC.md",
                code="refused",
            )
        return 0

    def _hello(self) -> DeviceInfo:
        try:
            return self._ask(
                Type.HELLO, link.hello(self._session), Type.DEVICE, link.read_device, self._session
            )
        except _RefusedError as refusal:
            self._recover(refusal.refused, 0)
            raise self._no_answer("DEVICE") from None

    def _ask(
        self,
        kind: Type,
        payload: bytes,
        answer: Type,
        read: Callable[[Frame], T | None],
        job: int | None = None,
    ) -> T:
        """Send a request until ``read`` of an answering frame returns something; raises _RefusedError on ERROR."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        request = link.encode(Frame(kind, self._sequence, payload))
        for attempt in range(self._patience.attempts):
            self._retries += attempt > 0
            self._transport.write(request)
            deadline = time.monotonic() + self._patience.timeout_s
            while (frame := self._next(deadline)) is not None:
                if frame.sequence != self._sequence:
                    self.ignored["sequence"] += 1
                elif frame.type == Type.ERROR:
                    raise _RefusedError(link.read_error(frame))
                elif link.read_job(frame) != (self._job if job is None else job):
                    self.ignored["job"] += 1
                elif frame.type == Type.RUNNING and kind == Type.RUN:
                    deadline = time.monotonic() + self._run_timeout()
                elif frame.type == answer and (found := read(frame)) is not None:
                    return found
                else:
                    self.ignored["type"] += 1
        raise self._no_answer(answer.name)

    def _next(self, deadline: float) -> Frame | None:
        """Return the next frame, None when the deadline passes first."""
        while not self._inbox:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._inbox.extend(self._decoder.feed(self._transport.read(left)))
        return self._inbox.popleft()

    def _run_timeout(self) -> float:
        learned = self._patience.run_timeout_s
        if self._run_s is not None:
            learned = min(learned, 4 * self._run_s + self._patience.timeout_s)
        return learned

    def _no_answer(self, what: str) -> LinkError:
        dropped = sum(self._decoder.rejected.values())
        return LinkError(
            f"expected {what} from the device, got none in {self._patience.attempts} attempts of "
            f"{self._patience.timeout_s:g} s ({dropped} damaged frames): check the port, its speed, and that the "
            "firmware with the link is running",
            code="no-answer",
        )


class _RefusedError(Exception):
    """A device's ERROR on its way to whoever can repair it."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused)
        self.refused = refused


def _same_input(crc: int) -> Callable[[Frame], Output | None]:
    def read(frame: Frame) -> Output | None:
        output = link.read_output(frame)
        return output if output.input_crc == crc else None

    return read


def _failed_check() -> LinkError:
    return LinkError(
        "the device says that its self-check failed: its stored inputs no longer give the stored outputs; "
        "flash it again, and suspect its memory if that does not help",
        code="self-check",
    )

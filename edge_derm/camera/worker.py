"""Inference in a process of its own: a crash or hang of native code costs one answer, never the loop.

The child (``python -m edge_derm.camera.worker``) reads requests on standard input and answers on standard
output; both are ``<QI`` (sequence number, bytes that follow) and a payload: uint8 pixels [S, S, 3] one way, float32 [C + 1]
the other (probabilities, then milliseconds of inference), and behind them the attention mask [h, w] where it was asked
for. Sequence 0 from the child means "loaded". It ends with its standard input, so it never outlives the loop.
"""

from __future__ import annotations

import math
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Sequence

import numpy as np

from edge_derm.errors import BackendError, EdgeDermError

if TYPE_CHECKING:
    from edge_derm.bundle import Bundle

_HEAD = struct.Struct("<QI")
_STEADY_ANSWERS = 100
_BACKOFF_S = (0.1, 5.0)


class Worker:
    """The loop's side: ``infer`` answers, or says None when there is no answer in time.

    A worker that crashed or missed its deadline is killed and started again after a pause that doubles from 0.1 s to
    5 s; ``restarts`` counts, ``trouble`` says why (None while all is well).
    """

    def __init__(
        self,
        bundle: Path,
        classes: int,
        *,
        threads: int = 1,
        backend: str = "litert",
        kernels: str = "default",
        deadline_s: float = 1.0,
        mask_shape: tuple[int, int] | None = None,
        start_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = [
            sys.executable,
            "-m",
            "edge_derm.camera.worker",
            str(bundle),
            str(threads),
            backend,
            kernels,
            "mask" if mask_shape else "plain",
        ]
        self._classes, self._mask_shape = classes, mask_shape
        self._answer_bytes = 4 * (classes + 1 + math.prod(mask_shape or (0,)))
        self._deadline_s, self._start_s, self._clock = deadline_s, start_s, clock
        self._stderr = tempfile.TemporaryFile()
        self._sequence = self._good = 0
        self._pause_s = 0.0
        self._start_at_s = clock()
        self._process: subprocess.Popen | None = None
        self._loaded = False
        self.restarts = 0
        self.mask: np.ndarray | None = None
        self.trouble: str | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the child that runs now."""
        return self._process.pid if self._process else None

    def wait(self) -> bool:
        """Wait until the model is loaded; False if it did not in time (``trouble`` says why)."""
        return self._ready(self._start_s)

    def infer(self, pixels: np.ndarray) -> tuple[np.ndarray, float] | None:
        """(probabilities float32 [C], inference milliseconds) of uint8 [S, S, 3]; None without an answer."""
        if not self._ready(0.0):
            return None
        self._sequence += 1
        try:
            answer = self._ask(self._sequence, pixels.tobytes())
        except (OSError, TimeoutError, ValueError) as error:
            self._fail(str(error) or type(error).__name__)
            return None
        self._good += 1
        if self._good >= _STEADY_ANSWERS:
            self._pause_s = 0.0
        self.trouble = None
        if self._mask_shape:
            self.mask = answer[self._classes + 1 :].reshape(self._mask_shape)
        return answer[: self._classes], float(answer[self._classes])

    def close(self) -> None:
        """End the child."""
        self._kill()
        self._stderr.close()

    def _ask(self, sequence: int, pixels: bytes) -> np.ndarray:
        assert self._process and self._process.stdin
        self._process.stdin.write(_HEAD.pack(sequence, len(pixels)) + pixels)
        self._process.stdin.flush()
        got, answer = self._receive(self._clock() + self._deadline_s)
        if got != sequence:
            raise ValueError(f"answered request {got} instead of {sequence}")
        return np.frombuffer(answer, np.float32)

    def _receive(self, until_s: float) -> tuple[int, bytes]:
        sequence, count = _HEAD.unpack(self._read(_HEAD.size, until_s))
        if count not in (0, self._answer_bytes):
            raise ValueError(f"expected {self._answer_bytes} bytes, got {count}")
        return sequence, self._read(count, until_s)

    def _read(self, count: int, until_s: float) -> bytes:
        assert self._process and self._process.stdout
        handle, parts = self._process.stdout.fileno(), b""
        while len(parts) < count:
            left_s = until_s - self._clock()
            if left_s <= 0 or not select.select([handle], [], [], left_s)[0]:
                raise TimeoutError("the inference process did not answer in time")
            part = os.read(handle, count - len(parts))
            if not part:
                raise BrokenPipeError("the inference process ended")
            parts += part
        return parts

    def _ready(self, wait_s: float) -> bool:
        if self._loaded:
            return True
        if self._process is None:
            if self._clock() < self._start_at_s:
                return False
            self._start()
            self.restarts += 1
        assert self._process and self._process.stdout
        if not wait_s and not select.select([self._process.stdout.fileno()], [], [], 0)[0]:
            if self._clock() > self._start_at_s + self._start_s:
                self._fail("the inference process did not load the model in time")
            return False
        try:
            self._loaded = self._receive(self._clock() + (wait_s or self._deadline_s))[0] == 0
        except (OSError, TimeoutError, ValueError) as error:
            self._fail(str(error))
        return self._loaded

    def _start(self) -> None:
        self._stderr.seek(0)
        self._stderr.truncate()
        self._start_at_s = self._clock()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
        )

    def _fail(self, why: str) -> None:
        self._kill()
        self._stderr.seek(0)
        last = self._stderr.read()[-400:].decode(errors="replace").strip().splitlines()
        self.trouble = f"{why}: {last[-1]}" if last else why
        self._pause_s = min(max(2 * self._pause_s, _BACKOFF_S[0]), _BACKOFF_S[1])
        self._start_at_s = self._clock() + self._pause_s
        self._good = 0

    def _kill(self) -> None:
        self._loaded = False
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            try:
                pipe.close()  # type: ignore[union-attr]
            except OSError:
                pass


class Inline:
    """The same answers from this process: no deadline, and a crash of native code takes the loop along.

    For where a child cannot be started, as under an emulator of another processor, and for one frame's latency at its least.
    """

    trouble: str | None = None
    restarts = 0
    mask: np.ndarray | None = None

    def __init__(
        self, bundle: Bundle, *, threads: int = 1, backend: str = "litert", masked: bool = False
    ) -> None:
        self._answer = _answering(bundle, threads, backend, "default", masked)

    def wait(self) -> bool:
        """True: the model is loaded."""
        return True

    def infer(self, pixels: np.ndarray) -> tuple[np.ndarray, float] | None:
        """As ``Worker.infer``; an engine's error is no answer, and ``trouble``."""
        try:
            p, spent_ms, self.mask = self._answer(pixels)
        except BackendError as error:
            self.trouble = str(error)
            return None
        self.trouble = None
        return p, spent_ms

    def close(self) -> None:
        """Nothing to end."""


def _answering(
    bundle: Bundle, threads: int, backend: str, kernels: str, masked: bool
) -> Callable[[np.ndarray], tuple[np.ndarray, float, np.ndarray | None]]:
    """Pixels [S, S, 3] → probabilities, milliseconds, and the attention mask [h, w] or None."""
    from edge_derm.runtime import Classifier
    from edge_derm.runtime.attention import Masks

    classifier = Classifier.open(bundle, threads=threads, backend=backend, kernels=kernels)
    masks = Masks(bundle, threads=threads, kernels=kernels) if masked else None

    def answer(pixels: np.ndarray) -> tuple[np.ndarray, float, np.ndarray | None]:
        begun = time.perf_counter()
        p = classifier.predict(pixels)[0]
        mask = None if masks is None else masks.of(pixels[np.newaxis])[0]
        return p, (time.perf_counter() - begun) * 1e3, mask

    return answer


def serve(bundle: str, *, threads: int, backend: str, kernels: str, masked: bool) -> None:
    """The child's life: load, say so, answer until standard input ends."""
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever native code prints must not land between answers
    from edge_derm.bundle import open_bundle

    opened = open_bundle(Path(bundle))
    answer = _answering(opened, threads, backend, kernels, masked)
    shape = (opened.manifest.input.size_px, opened.manifest.input.size_px, 3)
    answer(np.zeros(shape, np.uint8))
    _write(sink, _HEAD.pack(0, 0))
    with os.fdopen(source, "rb") as requests:
        while head := requests.read(_HEAD.size):
            sequence, count = _HEAD.unpack(head)
            pixels = np.frombuffer(requests.read(count), np.uint8).reshape(shape)
            p, spent_ms, mask = answer(pixels)
            said = np.append(p, spent_ms) if mask is None else np.append(np.append(p, spent_ms), mask)
            data = said.astype(np.float32).tobytes()
            _write(sink, _HEAD.pack(sequence, len(data)) + data)


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def main(arguments: Sequence[str]) -> int:
    """Serve ``BUNDLE THREADS BACKEND KERNELS mask|plain``; an error goes to standard error in one line."""
    bundle, threads, backend, kernels, what = arguments
    try:
        serve(bundle, threads=int(threads), backend=backend, kernels=kernels, masked=what == "mask")
    except EdgeDermError as error:
        print(error, file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

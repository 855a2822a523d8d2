"""The loop: capture → gate → preprocess → infer → smooth → show.

One thread captures into a ``Slot``; the caller's thread takes from it and does the rest, while a third process infers.
From a live source the newest frame wins and the others are counted as dropped; a recording waits and loses nothing.
The source, the clock, the inference and the sinks are passed in. Nothing that one frame, one viewer, one full disk or one
unplugged camera does ends the loop: it is counted, and shown.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Callable, Mapping, Protocol, Sequence

import numpy as np

from edge_derm.camera.counters import Counters
from edge_derm.camera.frames import Frame, Slot
from edge_derm.camera.quality import Quality, assess
from edge_derm.camera.smoothing import Smoother
from edge_derm.camera.sources import Broken, Source
from edge_derm.data.preprocess import preprocess
from edge_derm.runtime.decision import Prediction

_REOPEN_S = (0.05, 2.0)
_BROKEN_PAUSE_S = 0.01


class Inference(Protocol):
    """``Worker``, or anything else that answers."""

    trouble: str | None
    restarts: int
    mask: np.ndarray | None  # attention, float32 [h, w], of the last answer; None where it was not asked for

    def infer(self, pixels: np.ndarray) -> tuple[np.ndarray, float] | None:
        """(probabilities [C], milliseconds) of uint8 RGB [S, S, 3], or None without an answer."""


@dataclass(frozen=True)
class Answer:
    """What there is to say of one frame.

    ``status``: ``answered``, ``rejected`` (by the gate: ``quality.message``) or ``unanswered`` (``trouble``).
    ``prediction`` is decided on the smoothed probabilities; ``agreement`` in [0, 1]; ``latency_ms`` by stage, None where
    a stage was not reached; ``total`` runs from the moment the source had the frame.
    """

    status: str
    quality: Quality
    prediction: Prediction | None
    agreement: float | None
    steady: bool | None
    trouble: str | None
    latency_ms: Mapping[str, float | None]
    mask: np.ndarray | None = None  # attention, float32 [h, w]


Sink = Callable[[Frame, Answer], None]


class Loop:
    """``run`` until the source ends, ``frames`` are through, or ``stop`` is called from anywhere."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        inference: Inference,
        decide: Callable[[np.ndarray], Sequence[Prediction]],
        size_px: int,
        *,
        gate: Callable[[np.ndarray], Quality] = assess,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open, self._inference, self._decide, self._size_px = open_source, inference, decide, size_px
        self._gate, self._clock = gate, clock
        self._sinks: list[Sink] = []
        self._slot: Slot[Frame] = Slot()
        self._smoother = Smoother(name=lambda p: decide(p[np.newaxis])[0].label)
        self._stopped = threading.Event()
        self.counters = Counters(clock())
        self.source_lost: str | None = None

    def attach(self, sink: Sink) -> None:
        """Give every frame and its answer to ``sink`` from now on; it must return at once."""
        self._sinks.append(sink)

    @property
    def dropped(self) -> int:
        """Frames of a live source that a newer one replaced."""
        return self._slot.dropped

    def stop(self) -> None:
        """Ask the loop to end after the frame it works on."""
        self._stopped.set()

    def run(self, frames: int | None = None) -> None:
        """Run in this thread; raises what opening the source for the first time raises."""
        source = self._open()
        slot = self._slot = Slot(lossless=not source.live)
        self.counters = Counters(self._clock())
        capture = threading.Thread(target=self._capture, args=(source, slot), name="capture", daemon=True)
        capture.start()
        done = 0
        try:
            while not self._stopped.is_set() and (frames is None or done < frames):
                frame = slot.take(timeout_s=0.2)
                if frame is None and slot.closed:
                    break
                if frame is not None:
                    self._show(frame)
                    done += 1
        finally:
            self._stopped.set()
            slot.close()
            capture.join(timeout=6.0)
            self.counters.count("dropped", slot.dropped)

    def _capture(self, source: Source | None, slot: Slot[Frame]) -> None:
        number = 0
        while source is not None and not self._stopped.is_set():
            begun_s = self._clock()
            try:
                pixels = source.read()
            except Broken:
                self.counters.count("broken")
                self._stopped.wait(_BROKEN_PAUSE_S)
                continue
            except Exception as error:  # `Lost`, or whatever a driver raises: the camera is gone either way
                source = self._reopen(source, error)
                continue
            if pixels is None:
                break
            now_s = self._clock()
            if not slot.put(Frame(pixels, number, now_s, (now_s - begun_s) * 1e3)):
                break
            number += 1
        if source is not None:
            source.close()
        slot.close()

    def _reopen(self, source: Source, error: Exception) -> Source | None:
        """Try until the source is back; None when the loop was stopped meanwhile."""
        self.source_lost = str(error)
        _close(source)
        pause_s = _REOPEN_S[0]
        while not self._stopped.wait(pause_s):
            try:
                found = self._open()
            except Exception as again:
                self.source_lost = str(again)
                pause_s = min(2 * pause_s, _REOPEN_S[1])
                continue
            self.source_lost = None
            self.counters.count("reopened")
            return found
        return None

    def _show(self, frame: Frame) -> None:
        answer = self._answer(frame)
        self.counters.frame(answer.latency_ms, answer.quality.problem, self._clock())
        if answer.status == "unanswered":
            self.counters.count("unanswered")
        if answer.prediction and answer.prediction.abstained:
            self.counters.count("abstained")
        for sink in self._sinks:
            try:
                sink(frame, answer)
            except Exception:  # a view or a log must not take the loop with it
                self.counters.count("sink_errors")

    def _answer(self, frame: Frame) -> Answer:
        quality = self._gate(frame.pixels)
        if quality.problem:
            return self._made("rejected", frame, quality)
        begun_s = self._clock()
        pixels = preprocess(frame.pixels, self._size_px, order="bgr")
        preprocess_ms = (self._clock() - begun_s) * 1e3
        found = self._inference.infer(pixels)
        if found is None:
            return self._made("unanswered", frame, quality, preprocess=preprocess_ms)
        smoothed = self._smoother.add(found[0], frame.taken_s)
        prediction = self._decide(smoothed.probabilities[np.newaxis])[0]
        return self._made(
            "answered",
            frame,
            quality,
            prediction=prediction,
            agreement=smoothed.agreement,
            steady=smoothed.steady,
            preprocess=preprocess_ms,
            infer=found[1],
        )

    def _made(
        self,
        status: str,
        frame: Frame,
        quality: Quality,
        *,
        prediction: Prediction | None = None,
        agreement: float | None = None,
        steady: bool | None = None,
        **stages: float,
    ) -> Answer:
        total_ms = (self._clock() - frame.taken_s) * 1e3
        latency = {
            "capture": frame.capture_ms,
            "preprocess": None,
            "infer": None,
            **stages,
            "total": total_ms,
        }
        trouble = self._inference.trouble if status == "unanswered" else None
        mask = self._inference.mask if status == "answered" else None
        return Answer(status, quality, prediction, agreement, steady, trouble, latency, mask)


def _close(source: Source) -> None:
    try:
        source.close()
    except Exception:  # a device that is gone cannot be closed either
        pass

"""The capture log (off by default): one JSON line a frame, bounded on disk; pixels only when asked for, with a note of consent.

Lines hold time, status, label, probabilities and the gate's figures: no names, no file names, no EXIF. Full disks and vanished
folders are counted (``lost``), never raised. The oldest file goes when the whole passes ``limit_bytes``.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Callable

import cv2

from edge_derm import files
from edge_derm.camera.frames import Frame
from edge_derm.camera.loop import Answer

_PARTS = 8
_FRAME_EVERY_S = 1.0


class Log:
    """A sink of the loop that writes to ``folder``.

    Args:
        limit_bytes: of everything in the folder that this log wrote.
        consent: the note that allows ``frames/*.jpg`` (at most one a second) to be kept; None keeps no pixels.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int = 200_000_000,
        consent: str | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._limit, self._wall = folder, limit_bytes, wall
        self._consent = consent
        self._last_frame_s = 0.0
        self.lost = 0
        self.on_loss: Callable[[], None] = lambda: None  # told of every line that could not be kept
        (folder / "frames" if consent else folder).mkdir(parents=True, exist_ok=True)
        if consent:
            files.write_text(
                folder / "consent.txt", f"{time.strftime('%Y-%m-%d', time.gmtime(wall()))}: {consent}\n"
            )
        self._path = self._next_path()

    def __call__(self, frame: Frame, answer: Answer) -> None:
        """Write one line (and perhaps one picture)."""
        now_s = self._wall()
        try:
            self._append(json.dumps({"time_s": round(now_s, 3), **describe(frame, answer)}) + "\n")
            if self._consent and now_s - self._last_frame_s >= _FRAME_EVERY_S:
                self._keep(frame, now_s)
        except OSError:
            self.lost += 1
            self.on_loss()

    def _append(self, line: str) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size and size + len(line) > self._limit // _PARTS:
            self._path = self._next_path()
            self._trim()
        # One unbuffered write a line: after a power cut at most the last line is torn, and a full disk is seen at once.
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def _keep(self, frame: Frame, now_s: float) -> None:
        data = cv2.imencode(".jpg", frame.pixels)[1].tobytes()
        files.write_bytes(self._folder / "frames" / f"{now_s:015.3f}.jpg", data)
        self._last_frame_s = now_s
        self._trim()

    def _next_path(self) -> Path:
        numbers = [int(path.stem.rpartition("-")[2]) for path in self._folder.glob("predictions-*.jsonl")]
        return self._folder / f"predictions-{max(numbers, default=0) + 1:06d}.jsonl"

    def _trim(self) -> None:
        written = [*self._folder.glob("predictions-*.jsonl"), *self._folder.glob("frames/*.jpg")]
        aged = sorted(
            (path.stat().st_mtime_ns, path.stat().st_size, path) for path in written if path != self._path
        )
        total = sum(size for _, size, _ in aged) + self._limit // _PARTS
        for _, size, path in aged:
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size


def describe(frame: Frame, answer: Answer) -> dict[str, Any]:
    """One frame's answer in JSON's own types; ``report`` and the drift watch read these."""
    p, q = answer.prediction, answer.quality
    return {
        "frame": frame.number,
        "status": answer.status,
        "problem": q.problem,
        "message": q.message or answer.trouble,
        "label": p.label if p else None,
        "confidence": round(p.confidence, 4) if p else None,
        "probabilities": {name: round(value, 4) for name, value in p.probabilities.items()} if p else None,
        "entropy": round(p.entropy, 4) if p else None,
        "prediction_set": list(p.prediction_set) if p and p.prediction_set is not None else None,
        "abstained": p.abstained if p else None,
        "agreement": None if answer.agreement is None else round(answer.agreement, 3),
        "steady": answer.steady,
        "quality": {
            name: round(getattr(q, name), 4)
            for name in ("light", "glare", "red", "yellow", "focus", "contrast", "area", "offset")
        },
        "latency_ms": {
            stage: None if value is None else round(value, 3) for stage, value in answer.latency_ms.items()
        },
    }

"""What the loop counts, in fixed memory: nothing is lost without a number."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Mapping

import numpy as np

STAGES = ("capture", "preprocess", "infer", "total")
_KEPT = 8192


class Counters:
    """Counts and stage latencies of one run; safe to read from another thread.

    Latency figures are of the last 8,192 frames; counts are of the whole run.
    """

    def __init__(self, now_s: float) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._ms = {stage: np.full(_KEPT, np.nan, np.float32) for stage in STAGES}
        self._times = np.full(256, np.nan)
        self._begun_s, self._last_s = now_s, now_s

    def count(self, name: str, by: int = 1) -> None:
        """Add ``by`` to a count: ``broken``, ``reopened``, ``unanswered``, ``abstained``, ``not_logged``, …."""
        with self._lock:
            self._counts[name] += by

    def frame(self, latency_ms: Mapping[str, float | None], problem: str | None, now_s: float) -> None:
        """One frame went through at ``now_s``."""
        with self._lock:
            place = self._counts["frames"]
            self._counts["frames"] += 1
            for stage, values in self._ms.items():
                value = latency_ms.get(stage)
                values[place % _KEPT] = np.nan if value is None else value
            self._times[place % len(self._times)] = now_s
            self._last_s = now_s
            if problem:
                self._rejected[problem] += 1

    def recent_fps(self) -> float | None:
        """Frames a second over the last 256 frames."""
        with self._lock:
            times = self._times[~np.isnan(self._times)]
        spent = float(times.max() - times.min()) if len(times) > 1 else 0.0
        return (len(times) - 1) / spent if spent > 0 else None

    def idle_s(self, now_s: float) -> float:
        """Seconds since the last frame (since the start without one)."""
        return max(0.0, now_s - self._last_s)

    def summary(self) -> dict[str, Any]:
        """Everything counted: JSON's own types."""
        with self._lock:
            counts, rejected = dict(self._counts), dict(self._rejected)
            ms = {stage: values[~np.isnan(values)] for stage, values in self._ms.items()}
            spent_s = self._last_s - self._begun_s
        frames = counts.get("frames", 0)
        names = ("dropped", "abstained", "unanswered", "broken", "reopened", "not_logged", "sink_errors")
        return {
            "frames": frames,
            **{name: counts.get(name, 0) for name in names},
            "quality_rejected": sum(rejected.values()),
            "rejected_for": rejected,
            "fps": frames / spent_s if frames and spent_s > 0 else None,
            "latency_ms": {stage: _percentiles(values) for stage, values in ms.items()},
        }


def _percentiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(values.max())}

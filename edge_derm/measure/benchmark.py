"""Any callable → the distribution of its latency; two callables → a ratio from one interleaved run.

Machines are shared and noisy: every sample is kept, none is dropped, intervals are bootstrapped, and two things are compared
only by measuring them in turn (A B A B …), never from two separate runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

WARMUP_LEAST, WARMUP_MOST, STABLE = 10, 200, 0.05
RESAMPLES = 2000
QUANTILES = (50, 90, 95, 99)
WIDE = 0.1  # an interval wider than this share of the median is worth a warning


@dataclass(frozen=True)
class Latency:
    """All samples of one callable in milliseconds, in the order they were taken."""

    samples_ms: np.ndarray  # float64 [N]
    warmup: int

    def record(self, *, seed: int = 0) -> dict[str, Any]:
        """``p50 … p99, mean, ci95`` (bootstrap interval of the median) ``, samples, warmup, outliers, warning``."""
        values = self.samples_ms
        low, high = bootstrap(values, np.median, seed=seed)
        median = float(np.median(values))
        quartiles = np.percentile(values, [25, 75])
        fence = quartiles[1] + 3 * (quartiles[1] - quartiles[0])
        wide = (high - low) / median > WIDE if median > 0 else False
        return {
            **{f"p{q}": float(np.percentile(values, q)) for q in QUANTILES},
            "mean": float(values.mean()),
            "ci95": [low, high],
            "samples": [round(float(value), 6) for value in values],
            "warmup": self.warmup,
            "outliers": int((values > fence).sum()),
            "warning": (
                f"the interval of the median is wide ({low:.4g} to {high:.4g} ms): the machine is busy"
                if wide
                else None
            ),
        }


def measure(call: Callable[[], Any], *, runs: int = 200) -> Latency:
    """Warm up until stable, then take ``runs`` samples (at least 50)."""
    warmup = warm_up(call)
    return Latency(np.array([_once(call) for _ in range(max(50, runs))]), warmup)


def compare(
    first: Callable[[], Any], second: Callable[[], Any], *, runs: int = 200, seed: int = 0
) -> tuple[Latency, Latency, dict[str, Any]]:
    """Both callables in turn, and the ratio of their medians: ``{ratio{value, low, high}, verdict}``.

    The verdict is about the first: ``faster`` or ``slower`` when the interval of the ratio excludes 1, else ``undecided``.
    """
    warmups = warm_up(first), warm_up(second)
    pairs = np.array([[_once(first), _once(second)] for _ in range(max(50, runs))])
    low, high = bootstrap(pairs, _ratio, seed=seed)
    verdict = "faster" if high < 1 else "slower" if low > 1 else "undecided"
    latencies = [Latency(pairs[:, i], warmups[i]) for i in (0, 1)]
    return (
        latencies[0],
        latencies[1],
        {"ratio": {"value": float(_ratio(pairs)), "low": low, "high": high}, "verdict": verdict},
    )


def warm_up(call: Callable[[], Any]) -> int:
    """Call until the last ten are as fast as the ten before them, within a twentieth; the number of calls made."""
    taken: list[float] = []
    while len(taken) < WARMUP_MOST:
        taken.append(_once(call))
        if len(taken) >= 2 * WARMUP_LEAST:
            before, last = np.median(taken[-20:-10]), np.median(taken[-10:])
            if abs(last - before) <= STABLE * before:
                break
    return len(taken)


def bootstrap(values: np.ndarray, statistic: Callable[..., Any], *, seed: int = 0) -> tuple[float, float]:
    """Percentile interval (95 %) of ``statistic`` over resamples of the rows of ``values``."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _ratio(pairs: np.ndarray) -> float:
    return float(np.median(pairs[:, 0]) / np.median(pairs[:, 1]))


def _once(call: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6

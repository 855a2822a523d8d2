"""Minutes of continuous inference: does it stay as fast as it began, how warm does it get, does its memory grow?"""

from __future__ import annotations

import sys
import time
from typing import Any, Callable

import numpy as np

from edge_derm.measure.benchmark import bootstrap
from edge_derm.measure.environment import clock, temperature, throttled
from edge_derm.measure.memory import resident_bytes

WINDOWS = 60
STEADY = 0.05  # a drift inside ±5 % is not called one


def soak(call: Callable[[], Any], minutes: float, *, seed: int = 0) -> dict[str, Any]:
    """Call without a pause for ``minutes``, in windows of a sixtieth of that (at most ten seconds).

    Returns:
        ``{minutes, runs, windows[{at_seconds, runs, p50_ms, p95_ms, p99_ms, temperature_c, clock_mhz, throttled, rss_bytes}],
        drift{value, low, high}, verdict, temperature_c{first, highest, last}, throttled, rss_growth_bytes}``. ``drift`` is the
        median of the last quarter's windows over that of the first quarter's; the verdict ``slower`` or ``faster`` needs the
        whole interval beyond 5 %, else it is ``steady``. What the board does not tell is None.
    """
    length_s = min(10.0, minutes * 60 / WINDOWS)
    start = time.monotonic()
    windows: list[dict[str, Any]] = []
    while time.monotonic() - start < minutes * 60 or len(windows) < 8:
        windows.append(_window(call, length_s, start))
        _say(windows[-1], minutes)
    change = drift(np.array([window["p50_ms"] for window in windows]), seed=seed)
    degrees = [window["temperature_c"] for window in windows if window["temperature_c"] is not None]
    flags = [window["throttled"] for window in windows if window["throttled"] is not None]
    return {
        "minutes": (time.monotonic() - start) / 60,
        "runs": sum(window["runs"] for window in windows),
        "windows": windows,
        "drift": change,
        "verdict": verdict(change),
        "temperature_c": (
            {"first": degrees[0], "highest": max(degrees), "last": degrees[-1]} if degrees else None
        ),
        "throttled": any(int(flag, 16) & 0xF for flag in flags) if flags else None,
        "rss_growth_bytes": windows[-1]["rss_bytes"] - windows[len(windows) // 4]["rss_bytes"],
    }


def drift(medians: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """The last quarter of the windows over the first, with a bootstrap 95 % interval.

    Args:
        medians: ms, at least 8 windows.
    """
    quarter = len(medians) // 4
    pairs = np.stack([medians[-quarter:], medians[:quarter]], axis=1)
    low, high = bootstrap(pairs, _ratio, seed=seed)
    return {"value": _ratio(pairs), "low": low, "high": high}


def verdict(change: dict[str, float]) -> str:
    """``slower``, ``faster`` or ``steady``."""
    if change["low"] > 1 + STEADY:
        return "slower"
    return "faster" if change["high"] < 1 - STEADY else "steady"


def _ratio(pairs: np.ndarray) -> float:
    return float(np.median(pairs[:, 0]) / np.median(pairs[:, 1]))


def _window(call: Callable[[], Any], length_s: float, start: float) -> dict[str, Any]:
    at = time.monotonic()
    taken: list[float] = []
    while not taken or time.monotonic() - at < length_s:
        begun = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - begun) / 1e6)
    p50, p95, p99 = np.percentile(taken, [50, 95, 99])
    return {
        "at_seconds": round(at - start, 3),
        "runs": len(taken),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "temperature_c": temperature(),
        "clock_mhz": clock(),
        "throttled": throttled(),
        "rss_bytes": resident_bytes(),
    }


def _say(window: dict[str, Any], minutes: float) -> None:
    if sys.stderr.isatty():
        warm = "" if window["temperature_c"] is None else f", {window['temperature_c']:.0f} °C"
        print(
            f"soak: {window['at_seconds'] / 60:.1f} of {minutes:g} min, p50 {window['p50_ms']:.3f} ms{warm}",
            file=sys.stderr,
        )

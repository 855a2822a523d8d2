"""The same measurement in several processes, for benchmarks in which it matters where things lie in memory."""

from __future__ import annotations

import multiprocessing
from typing import Any, Callable


def apart(processes: int, measure: Callable[..., Any], *given: Any, **choices: Any) -> list[Any]:
    """What ``measure(*given, **choices)`` returns in each of so many processes, one after the other."""
    found = []
    for _ in range(processes):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, given, choices))
    return found

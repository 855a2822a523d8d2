"""A mean of a few values with Student's 95 % interval, for the benchmarks that repeat whole runs."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
from scipy import stats

from edge_derm.trust.intervals import figure, undefined


def mean(values: Sequence[float]) -> dict[str, Any]:
    """``{value, low, high, n}``; one value has no interval."""
    n, middle = len(values), float(np.mean(values))
    if n < 2:
        return {**undefined("one run", n), "value": middle}
    half = float(stats.t.ppf(0.975, n - 1) * stats.sem(values))
    return figure(middle, middle - half, middle + half, n)


def mean_of_each(values: Sequence[float]) -> dict[str, Any]:
    """``mean`` with the values themselves as ``each``."""
    return {**mean(values), "each": [float(value) for value in values]}

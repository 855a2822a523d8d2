"""95 % intervals. A figure is ``{value, low, high, n}``; one that is not defined has None and a ``reason``."""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import numpy as np

Z = 1.959963984540054  # 97.5th percentile of the normal distribution
RESAMPLES = 1000


def figure(value: float, low: float, high: float, n: int) -> dict[str, Any]:
    """A defined figure."""
    return {"value": float(value), "low": float(low), "high": float(high), "n": int(n)}


def undefined(reason: str, n: int) -> dict[str, Any]:
    """A figure that the data do not define."""
    return {"value": None, "low": None, "high": None, "n": int(n), "reason": reason}


def proportion(successes: int, n: int) -> dict[str, Any]:
    """A share with its Wilson score interval (Wilson 1927, doi 10.1080/01621459.1927.10502953)."""
    if n == 0:
        return undefined("no images", 0)
    p = successes / n
    centre = p + Z * Z / (2 * n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = (centre - half) / (1 + Z * Z / n), (centre + half) / (1 + Z * Z / n)
    # At the ends the bound is the end itself; rounding must not push it past.
    return figure(p, 0.0 if successes == 0 else low, 1.0 if successes == n else high, n)


def members_of(groups: Sequence[str]) -> list[np.ndarray]:
    """Image indices of each lesion or patient, in the order of their names."""
    _, inverse = np.unique(np.asarray(groups), return_inverse=True)
    return np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])


def share(
    hits: np.ndarray, groups: Sequence[str] | np.ndarray | None, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The share of ``hits`` (bool [N]): Wilson's interval where every image is its own group, else a bootstrap over groups.

    Several images of one lesion say less than as many of several; Wilson would not know. A share of exactly 0 or 1 has no
    spread to draw from and keeps Wilson's interval, of the number of groups.
    """
    names = None if groups is None else set(np.asarray(groups).tolist())
    if names is None or len(names) == len(hits):
        return proportion(int(hits.sum()), len(hits))
    if hits.all() or not hits.any():
        bound = proportion(len(names) if hits.all() else 0, len(names))
        return {**bound, "n": len(hits)}
    assert groups is not None
    return resample(lambda i: float(hits[i].mean()), list(groups), seed=seed, resamples=resamples)


def resample(
    statistic: Callable[[np.ndarray], float | None],
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """A statistic with a percentile bootstrap over groups (lesions or patients), which are drawn whole.

    Args:
        statistic: takes image indices (int64 [n], repeats allowed); None or not-a-number where it is undefined.
        groups: one name an image.
    """
    n = len(groups)
    value = statistic(np.arange(n)) if n else None
    if value is None or not math.isfinite(value):
        return undefined("not defined on these images", n)
    members = members_of(groups)
    flat = np.concatenate(members) if len(members) == n else None
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        picked = rng.integers(0, len(members), len(members))
        again = statistic(np.concatenate([members[i] for i in picked]) if flat is None else flat[picked])
        if again is not None and math.isfinite(again):
            drawn.append(again)
    if len(drawn) < resamples / 2:
        return undefined("not defined on most resamples", n)
    low, high = np.percentile(drawn, [2.5, 97.5])
    # A calibration error is pushed up by resampling; the interval then starts at the value itself, not above it.
    return figure(value, min(low, value), max(high, value), n)


def jackknife(
    statistic: Callable[[np.ndarray], float], groups: Sequence[str], *, folds: int = 40, seed: int = 0
) -> dict[str, Any]:
    """A statistic with ± 1.96 standard errors from leaving out a fold of groups at a time (Shao and Wu 1989).

    For statistics that count how often values repeat, such as an entropy: a bootstrap repeats images and pushes them off.

    Args:
        statistic: takes image indices, int64 [n].
    """
    n, value = len(groups), statistic(np.arange(len(groups)))
    members = members_of(groups)
    if len(members) < 2:
        return undefined("needs images of at least two lesions", n)
    order = np.random.default_rng(seed).permutation(len(members))
    left = [
        statistic(np.delete(np.arange(n), np.concatenate([members[i] for i in fold])))
        for fold in np.array_split(order, min(folds, len(members)))
    ]
    half = Z * math.sqrt((len(left) - 1) / len(left) * float(((np.array(left) - np.mean(left)) ** 2).sum()))
    return figure(value, value - half, value + half, n)

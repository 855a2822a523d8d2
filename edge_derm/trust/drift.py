"""Whether what a model sees now still looks like what it was calibrated on. Arrays in, plain records out.

Each figure gets a two-sample test, and Holm's rule (Holm, 1979) holds all of them together to one stated false-alarm rate:
without drift, the chance that ``compare`` calls any figure drifted is at most ``false_alarm``. That needs observations that are
independent: one a lesion or a look, not one a video frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping

import numpy as np

LEAST = 30  # observations below which nothing is said
DRAWS = 9999  # of the permutation test: the least p is 1 / (DRAWS + 1)
CLASS_MIX = "class mix"


@dataclass(frozen=True)
class Sample:
    """Observations: ``labels`` int64 [N], the class decided for each; ``figures`` ``{name: float [N]}``."""

    labels: np.ndarray
    figures: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)


def compare(reference: Sample, now: Sample, classes: int, *, false_alarm: float = 0.01) -> dict[str, Any]:
    """``{verdict, drifted, rows}``; the verdict is ``drift``, ``none``, or ``waiting`` for ``LEAST`` observations.

    A row is ``{figure, statistic, p, p_adjusted, drifted, before, now}``: the statistic is the largest gap between the two
    distribution functions (Kolmogorov and Smirnov), of the class mix the share of decisions that changed class (total
    variation); ``before`` and ``now`` are medians, of the class mix the shares.
    """
    if len(now) < LEAST:
        return {"verdict": "waiting", "drifted": [], "rows": []}
    shared = [name for name in reference.figures if name in now.figures]
    rows = [_mix(reference.labels, now.labels, classes)]
    rows += [_figure(name, reference.figures[name], now.figures[name]) for name in shared]
    adjusted = holm(np.array([row["p"] for row in rows]))
    for row, p in zip(rows, adjusted):
        row |= {"p_adjusted": float(p), "drifted": bool(p <= false_alarm)}
    drifted = [row["figure"] for row in rows if row["drifted"]]
    return {"verdict": "drift" if drifted else "none", "drifted": drifted, "rows": rows}


def holm(p: np.ndarray) -> np.ndarray:
    """p values, adjusted so that all of them together keep one false-alarm rate (Holm's step-down rule)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def ks(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(largest gap of the distribution functions, its p value) of two samples; the p value is high rather than low with ties.

    Stephens' approximation to Kolmogorov's distribution (Stephens, 1970; Numerical Recipes, 14.3.3).
    """
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    gap = np.abs(
        np.searchsorted(a, at, side="right") / len(a) - np.searchsorted(b, at, side="right") / len(b)
    ).max()
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    x = (root + 0.12 + 0.11 / root) * float(gap)
    if x < 0.2:  # the series does not converge there, and the value is 1 to 12 digits
        return float(gap), 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)]
    return float(gap), min(1.0, max(0.0, 2 * sum(terms)))


def mix(before: np.ndarray, now: np.ndarray, *, seed: int = 0) -> float:
    """p value of equal class shares behind two rows of counts int64 [C]: chi-squared, against random exchanges of the decisions.

    Exact at any count (Monte Carlo: Davison & Hinkley, 1997, 4.1), where the chi-squared table is not for rare classes.
    """
    total = before + now
    seen = total[total > 0]
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(seen, int(now.sum()), size=DRAWS)
    expected = seen * now.sum() / total.sum()
    scores = ((drawn - expected) ** 2 / seen).sum(
        axis=1
    )  # chi-squared but for a factor that is the same for all
    own = ((now[total > 0] - expected) ** 2 / seen).sum()
    return float((1 + (scores >= own * (1 - 1e-12)).sum()) / (DRAWS + 1))


def _mix(before: np.ndarray, now: np.ndarray, classes: int) -> dict[str, Any]:
    counts = [np.bincount(labels, minlength=classes) for labels in (before, now)]
    shares = [count / count.sum() for count in counts]
    return {
        "figure": CLASS_MIX,
        "statistic": float(np.abs(shares[0] - shares[1]).sum() / 2),
        "p": mix(*counts),
        "before": shares[0].tolist(),
        "now": shares[1].tolist(),
    }


def _figure(name: str, before: np.ndarray, now: np.ndarray) -> dict[str, Any]:
    statistic, p = ks(before, now)
    return {
        "figure": name,
        "statistic": statistic,
        "p": p,
        "before": float(np.median(before)),
        "now": float(np.median(now)),
    }

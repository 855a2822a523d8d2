"""Fits what ``runtime.decision`` applies: temperature, conformal quantiles, abstain threshold. Arrays in, numbers out.

What a fit is worth on images it has not seen is told by cross-fitting: ``folds`` of whole lesions or patients, each judged by
what was fitted on the others.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.trust.intervals import proportion

COLDEST, HOTTEST = 0.05, 20.0
STEPS = 20  # thresholds that the bounded abstain rule looks at: those answering 5 %, 10 %, … of the images


def halves(groups: Sequence[str], *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image indices (int64, sorted) to fit on and to check on; a lesion or patient stays on one side.

    Raises:
        DataError: ``calibration-too-small``: fewer than two groups.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    _check_groups(len(names))
    order = np.random.default_rng(seed).permutation(len(names))
    first = np.isin(place, order[: (len(names) + 1) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def folds(groups: Sequence[str], *, count: int = 5, seed: int = 0) -> list[np.ndarray]:
    """Image indices (int64, sorted) of ``count`` folds, fewer where there are fewer groups; a group stays in one fold.

    Raises:
        DataError: ``calibration-too-small``: fewer than two groups.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    _check_groups(len(names))
    fold = np.empty(len(names), np.int64)
    fold[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % count
    return [np.flatnonzero(fold[place] == k) for k in range(min(count, len(names)))]


def _check_groups(count: int) -> None:
    if count < 2:
        raise DataError(
            f"calibrate: expected images of at least 2 lesions, got {count}: give more data",
            code="calibration-too-small",
        )


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of least negative log-likelihood (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

    The likelihood is concave in 1/T, so its slope is bisected; the answer stays in [0.05, 20].

    Args:
        logits: float [N, C]. targets: int64 [N].
    """
    z = logits.astype(np.float64)
    true = z[np.arange(len(z)), targets].mean()

    def slope(temperature: float) -> float:
        scaled = z / temperature
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return float(((powers * z).sum(axis=1) / powers.sum(axis=1)).mean() - true)

    cold, hot = COLDEST, HOTTEST
    if slope(cold) <= 0:
        return cold
    if slope(hot) >= 0:
        return hot
    for _ in range(80):
        middle = math.sqrt(cold * hot)
        cold, hot = (middle, hot) if slope(middle) > 0 else (cold, middle)
    return math.sqrt(cold * hot)


def fit_quantile(p: np.ndarray, targets: np.ndarray, *, miscoverage: float) -> float:
    """Split-conformal quantile of the scores 1 − p(true class); see ``quantile``. Sadinle et al., 2019,
    https://arxiv.org/abs/1609.00451.
    """
    scores = 1.0 - np.asarray(p, np.float64)[np.arange(len(targets)), targets]
    return min(1.0, max(0.0, quantile(scores, miscoverage=miscoverage, everything=1.0)))


def quantile(scores: np.ndarray, *, miscoverage: float, everything: float) -> float:
    """The ⌈(n + 1)(1 − miscoverage)⌉-th smallest score; ``everything`` where n is too small for the promise."""
    rank = math.ceil((len(scores) + 1) * (1 - miscoverage) - 1e-9)
    return everything if rank > len(scores) else float(np.sort(scores)[rank - 1])


def fit_class_quantiles(
    scores: np.ndarray, targets: np.ndarray, classes: int, *, miscoverage: float, everything: float
) -> tuple[float, ...]:
    """One quantile a class, from the scores of the images that are of it (Vovk 2012, https://arxiv.org/abs/1209.2673).

    The promise then holds for each class, not only on the whole; a class with too few images gets ``everything``.
    """
    return tuple(
        quantile(scores[targets == c], miscoverage=miscoverage, everything=everything) for c in range(classes)
    )


def fit_abstain(
    confidence: np.ndarray, correct: np.ndarray, *, risk: float, doubt: float | None = None
) -> float | None:
    """The lowest confidence to answer at, so that at most ``risk`` of the answers are wrong; None if none reaches it.

    Args:
        doubt: None takes the share of wrong answers as it was counted. A number asks that its upper confidence bound
            (Clopper and Pearson, 1934), missed with at most this probability at any of the ``STEPS`` thresholds looked at
            (Bonferroni), is within ``risk``: then the promise holds for new images of the same kind with 1 − ``doubt``.
    """
    order = np.argsort(-confidence, kind="stable")
    ordered = np.asarray(confidence, np.float64)[order]
    wrong = np.cumsum(~correct[order])
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))  # ties are answered together
    if doubt is None:
        reaching = last[wrong[last] <= risk * (last + 1) + 1e-12]
        return float(ordered[reaching[-1]]) if len(reaching) else None
    wanted = np.ceil(np.arange(1, STEPS + 1) / STEPS * len(ordered)).astype(int) - 1
    looked_at = np.unique(last[np.minimum(np.searchsorted(last, wanted), len(last) - 1)])
    for place in looked_at[::-1]:
        if upper_bound(int(wrong[place]), int(place) + 1, doubt=doubt / STEPS) <= risk:
            return float(ordered[place])
    return None


def upper_bound(successes: int, n: int, *, doubt: float) -> float:
    """Clopper and Pearson's one-sided upper bound: the share at which ``successes`` or fewer of n has probability ``doubt``."""
    if successes >= n:
        return 1.0
    low, high = successes / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(successes, n, middle) > doubt else (low, middle)
    return high


def binomial_tail(successes: int, n: int, p: float) -> float:
    """P(X ≤ successes) of a binomial, summed in logarithms; 0 < p < 1."""
    if p >= 1.0:
        return float(successes >= n)
    k = np.arange(successes + 1)
    steps = np.concatenate([[0.0], np.log((n - k[:-1]) / (k[:-1] + 1.0))]).cumsum()
    terms = steps + k * math.log(p) + (n - k) * math.log1p(-p)
    return float(np.exp(terms - terms.max()).sum() * math.exp(terms.max()))


def answered(confidence: np.ndarray, correct: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """``{answered, risk}``: the share of images answered at ``threshold`` and the share of those answers that are wrong."""
    kept = np.asarray(confidence, np.float64) >= (0.0 if threshold is None else threshold)
    return {
        "answered": proportion(int(kept.sum()), len(kept)),
        "risk": proportion(int((~correct[kept]).sum()), int(kept.sum())),
    }

"""Fits what ``runtime.decision`` applies: temperature, conformal quantile, abstain threshold. Arrays in, numbers out."""

from __future__ import annotations

import math
from typing import Any, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.trust.intervals import proportion

COLDEST, HOTTEST = 0.05, 20.0


def halves(groups: Sequence[str], *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image indices (int64, sorted) to fit on and to check on; a lesion or patient stays on one side.

    Raises:
        DataError: ``calibration-too-small``: fewer than two groups.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise DataError(
            f"calibrate: expected images of at least 2 lesions, got {len(names)}: give more data",
            code="calibration-too-small",
        )
    order = np.random.default_rng(seed).permutation(len(names))
    first = np.isin(place, order[: (len(names) + 1) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


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
    """Split-conformal quantile of the scores 1 − p(true class): the ⌈(n + 1)(1 − miscoverage)⌉-th smallest.

    1.0 (every class is in the set) where n is too small for the promise. Sadinle et al., 2019,
    https://arxiv.org/abs/1609.00451.
    """
    scores = np.sort(1.0 - np.asarray(p, np.float64)[np.arange(len(targets)), targets])
    rank = math.ceil((len(scores) + 1) * (1 - miscoverage) - 1e-9)
    return 1.0 if rank > len(scores) else min(1.0, max(0.0, float(scores[rank - 1])))


def fit_abstain(confidence: np.ndarray, correct: np.ndarray, *, risk: float) -> float | None:
    """The lowest confidence to answer at, so that at most ``risk`` of the answers are wrong; None if none reaches it."""
    order = np.argsort(-confidence, kind="stable")
    ordered = np.asarray(confidence, np.float64)[order]
    wrong = np.cumsum(~correct[order])
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))  # ties are answered together
    reaching = last[wrong[last] <= risk * (last + 1) + 1e-12]
    return float(ordered[reaching[-1]]) if len(reaching) else None


def answered(confidence: np.ndarray, correct: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """``{answered, risk}``: the share of images answered at ``threshold`` and the share of those answers that are wrong."""
    kept = np.asarray(confidence, np.float64) >= (0.0 if threshold is None else threshold)
    return {
        "answered": proportion(int(kept.sum()), len(kept)),
        "risk": proportion(int((~correct[kept]).sum()), int(kept.sum())),
    }

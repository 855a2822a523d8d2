"""How far stated probabilities are from what happens."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15


def ece(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> float:
    """Expected calibration error: Σ share of a bin · |accuracy − mean confidence|, equal-width bins (Guo 2017).

    Args:
        confidence: float [N] in [0, 1], the largest probability. correct: bool [N].
    """
    return _gap(confidence, correct, np.minimum((confidence * bins).astype(np.int64), bins - 1), bins)


def adaptive_ece(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> float:
    """The same with bins of equal counts, which a confident model cannot leave empty."""
    order = np.argsort(confidence, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) * bins // max(1, len(order))
    return _gap(confidence, correct, place, bins)


def _gap(confidence: np.ndarray, correct: np.ndarray, place: np.ndarray, bins: int) -> float:
    if not len(confidence):
        return float("nan")
    hits = np.bincount(place, weights=correct.astype(np.float64), minlength=bins)
    stated = np.bincount(place, weights=confidence.astype(np.float64), minlength=bins)
    return float(np.abs(hits - stated).sum() / len(confidence))


def brier(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean over images of Σ over classes (p − y)², 0 to 2 (Brier 1950)."""
    if not len(targets):
        return float("nan")
    p = probabilities.astype(np.float64)
    chosen = p[np.arange(len(targets)), targets]
    return float(((p**2).sum(axis=1) - 2 * chosen + 1).mean())


def nll(probabilities: np.ndarray, targets: np.ndarray, *, floor: float = 1e-7) -> float:
    """Mean negative log-likelihood in nats, probabilities floored."""
    if not len(targets):
        return float("nan")
    return float(
        -np.log(np.maximum(probabilities[np.arange(len(targets)), targets].astype(np.float64), floor)).mean()
    )


def reliability(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 10) -> list[dict[str, Any]]:
    """Bins that hold images: ``{low, high, confidence, accuracy, n}``."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(correct[place == b].mean()),
            "n": int((place == b).sum()),
        }
        for b in range(bins)
        if (place == b).any()
    ]

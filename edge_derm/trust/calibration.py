"""How far stated probabilities are from what happens."""

from __future__ import annotations

import math
from typing import Any, Mapping, Sequence

import numpy as np

BINS = 15
NOISE_DRAWS = 200


def ece(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> float:
    """Expected calibration error: Σ share of a bin · |accuracy − mean confidence|, equal-width bins (Guo 2017).

    Args:
        confidence: float [N] in [0, 1], the largest probability. correct: bool [N].
    """
    return _gap(confidence, correct, np.minimum((confidence * bins).astype(np.int64), bins - 1), bins)


def ece_debiased(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> float:
    """The same with the part that chance adds taken off, as far as one can tell it: ``debiased`` of its bins."""
    return debiased(reliability(confidence, correct, bins=bins))


def debiased(table: Sequence[Mapping[str, Any]]) -> float:
    """The calibration error of a ``reliability`` table, less what the noise of each bin's accuracy adds to its gap; at least 0.

    On few images no gap is 0, of a perfect model neither. What that adds is estimated by the gap that the same bin would show
    if its images were drawn again, normally distributed (Kumar, Liang and Ma, 2019, https://arxiv.org/abs/1909.10155; their
    library resamples, here the mean of the folded normal is written out). Of a perfect model's error that takes off some two
    fifths, not all; of a bin that is off by one or two of its standard errors up to a tenth of one too much. Not a number
    without images.
    """
    total = sum(row["n"] for row in table)
    left = 0.0
    for row in table:
        gap = abs(row["accuracy"] - row["confidence"])
        spread = math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["n"])
        left += row["n"] * (2 * gap - _folded(gap, spread))
    return max(0.0, left / total) if total else float("nan")


def _folded(mean: float, spread: float) -> float:
    """E|X| of a normal X."""
    if not spread:
        return abs(mean)
    ratio = mean / spread
    return spread * math.sqrt(2 / math.pi) * math.exp(-ratio * ratio / 2) + mean * math.erf(
        ratio / math.sqrt(2)
    )


def noise(confidence: np.ndarray, *, seed: int = 0) -> float:
    """The calibration error that a perfectly calibrated model with these confidences would show, on average.

    The binned estimate is never 0 on few images: a figure near this one is no evidence of miscalibration.
    """
    rng = np.random.default_rng(seed)
    drawn = [ece(confidence, rng.random(len(confidence)) < confidence) for _ in range(NOISE_DRAWS)]
    return float(np.mean(drawn))


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

"""Receiver operating characteristic: the area with DeLong's interval, the curve, operating points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge_derm.trust.intervals import Z, figure, undefined


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def auroc(scores: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    """Area under the curve with DeLong's 95 % interval (DeLong 1988; computed as Sun and Xu 2014, doi 10.1109/LSP.2014.2337313).

    Args:
        scores: float [N], higher for positives. positive: bool [N].
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return undefined("needs positives and negatives", m + n)
    ranks = midranks(scores)
    area = (ranks[positive].sum() - m * (m + 1) / 2) / (m * n)
    among_positive = (ranks[positive] - midranks(scores[positive])) / n
    among_negative = 1 - (ranks[~positive] - midranks(scores[~positive])) / m
    variance = _variance(among_positive) / m + _variance(among_negative) / n
    half = Z * math.sqrt(variance)
    return figure(area, max(0.0, area - half), min(1.0, area + half), m + n)


def area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The area alone; None without positives or negatives."""
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return None
    return float((midranks(scores)[positive].sum() - m * (m + 1) / 2) / (m * n))


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Σ (recall step) · precision over the distinct scores, from the highest; None without positives."""
    if not positive.any():
        return None
    thresholds, true, false = counts(scores, positive)
    recall, precision = true / positive.sum(), true / (true + false)
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))


def counts(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores from the highest, and how many positives and negatives lie at or above each."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], positive[order].astype(np.int64)
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    true = np.cumsum(hits)[last]
    return ordered[last], true, last + 1 - true


def curve(scores: np.ndarray, positive: np.ndarray, *, points: int = 200) -> dict[str, list[float]]:
    """``{false_positive_rate, sensitivity}``, from (0, 0) to (1, 1), thinned to about ``points``."""
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return {"false_positive_rate": [], "sensitivity": []}
    _, true, false = counts(scores, positive)
    x, y = np.append(0, false) / n, np.append(0, true) / m
    keep = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    return {"false_positive_rate": x[keep].tolist(), "sensitivity": y[keep].tolist()}


def choose_threshold(
    scores: np.ndarray, positive: np.ndarray, rule: str, wanted: float | None = None
) -> float | None:
    """The threshold (positive when score ≥ it) that a rule picks; None without positives and negatives.

    Args:
        rule: ``sensitivity`` (highest threshold reaching ``wanted``), ``specificity`` (lowest threshold reaching ``wanted``),
            ``youden`` (largest sensitivity + specificity).
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return None
    thresholds, true, false = counts(scores, positive)
    sensitivity, specificity = true / m, 1 - false / n
    if rule == "youden":
        return float(thresholds[np.argmax(sensitivity + specificity)])
    if rule == "sensitivity":
        return float(thresholds[np.argmax(sensitivity >= (wanted or 0) - 1e-12)])
    reaching = np.flatnonzero(specificity >= (wanted or 0) - 1e-12)
    return float(thresholds[reaching[-1]]) if len(reaching) else float(np.nextafter(thresholds[0], np.inf))

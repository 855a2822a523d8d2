"""Uncertainty from T stochastic passes. Pure NumPy, float64 [T, N, C] in, float64 [N] out.

Definitions: Combalia et al., CVPR Workshops 2020. With T = 1 variance and mutual information are 0. On one image a NumPy call
costs as much as the arithmetic of a small layer, so calls are few here, and the coefficient of one image is counted in Python.
"""

from __future__ import annotations

import math
from typing import Mapping

import numpy as np

BINS = 20  # of the pass histograms; the Bhattacharyya coefficient depends on it
NAMES = (
    "entropy",
    "normalised_entropy",
    "variance",
    "bhattacharyya",
    "mutual_information",
    "max_probability",
)
_LAST, _PAST = bytes([BINS - 1]), bytes([BINS])  # the last bin, and where a probability of 1 would fall
_TINY = 1e-300  # 0 · log(tiny) is 0


def measures(passes: np.ndarray) -> Mapping[str, np.ndarray]:
    """Every measure by name; all but ``max_probability`` grow with uncertainty.

    ``entropy`` of the mean in nats, ``normalised_entropy`` = entropy / ln C, ``variance``, ``bhattacharyya``,
    ``mutual_information`` in nats, ``max_probability`` of the mean.

    Args:
        passes: probabilities [T, N, C], T ≥ 1, C ≥ 2.
    """
    p = np.asarray(passes, np.float64)
    count, images, classes = p.shape
    if images == 1:
        return dict(zip(NAMES, np.array(_of_one(p[:, 0])).reshape(-1, 1)))
    mean = np.add.reduce(p, axis=0) / count
    total = _entropy(mean)
    if count > 1:
        away = p - mean
        spread = np.einsum("tnc,tnc->n", away, away) / (count * classes)
        gained = np.maximum(0.0, total - np.add.reduce(_entropy(p), axis=0) / count)
    else:
        spread, gained = np.zeros(len(mean)), np.zeros(len(mean))
    return {
        "entropy": total,
        "normalised_entropy": total / math.log(classes),
        "variance": spread,
        "bhattacharyya": _bhattacharyya(p, mean),
        "mutual_information": gained,
        "max_probability": np.maximum.reduce(mean, axis=1),
    }


def variance(passes: np.ndarray) -> np.ndarray:
    """Mean over passes and classes of (p − mean over passes)²; exactly 0 for one pass."""
    p = np.asarray(passes, np.float64)
    return ((p - p.mean(axis=0)) ** 2).mean(axis=(0, 2))


def bhattacharyya(passes: np.ndarray) -> np.ndarray:
    """Σ over bins of √(h1 · h2), the pass histograms on [0, 1] of the two most probable classes; 1 is most uncertain.

    A probability of 1 falls in the last bin; ties in the mean go to the earlier class.
    """
    p = np.asarray(passes, np.float64)
    return _bhattacharyya(p, p.mean(axis=0))


def _entropy(p: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, -np.einsum("...c,...c->...", p, np.log(np.maximum(p, _TINY))))


def _bhattacharyya(p: np.ndarray, mean: np.ndarray) -> np.ndarray:
    images = np.arange(len(mean))
    first, second = np.argsort(-mean, axis=1, kind="stable")[:, :2].T
    one, two = (_histograms(p[:, images, c]) for c in (first, second))
    return np.minimum(1.0, np.sqrt(one * two).sum(axis=1))


def _of_one(p: np.ndarray) -> tuple[float, ...]:
    """The measures of one image's passes [T, C], in the order of ``NAMES``."""
    count, classes = p.shape
    mean = np.add.reduce(p) / count
    shares = mean.tolist()
    total = max(0.0, -sum([share * math.log(share) for share in shares if share > 0]))
    spread = gained = 0.0
    if count > 1:
        away = p - mean
        spread = float(np.vdot(away, away)) / (count * classes)
        gained = max(0.0, total + float(np.vdot(p, np.log(np.maximum(p, _TINY)))) / count)
    overlap = _bhattacharyya_of_one(p, shares)
    return total, total / math.log(classes), spread, overlap, gained, max(shares)


def _bhattacharyya_of_one(p: np.ndarray, mean: list[float]) -> float:
    """As ``_bhattacharyya``, of passes [T, C]; a pass's bin is a byte, and bytes are counted without an array."""
    first = mean.index(max(mean))  # ties go to the earlier
    rest = [*mean]
    rest[first] = -1.0
    second = rest.index(max(rest))
    place = (p * BINS).astype(np.uint8)
    one, two = (place[:, c].tobytes().replace(_PAST, _LAST) for c in (first, second))
    return min(1.0, sum([math.sqrt(one.count(k) * two.count(k)) for k in {*one}.intersection(two)]) / len(p))


def _histograms(values: np.ndarray) -> np.ndarray:
    """[T, N] values in [0, 1] → [N, BINS] shares."""
    passes, images = values.shape
    place = np.minimum((values * BINS).astype(np.int64), BINS - 1) + np.arange(images) * BINS
    return np.bincount(place.ravel(), minlength=images * BINS).reshape(images, BINS) / passes

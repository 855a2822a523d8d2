"""Uncertainty from T stochastic passes. Pure NumPy, float64 [T, N, C] in, float64 [N] out.

Definitions: Combalia et al., CVPR Workshops 2020. With T = 1 variance and mutual information are 0.
"""

from __future__ import annotations

from typing import Mapping

import numpy as np

from edge_derm.runtime.decision import entropy

BINS = 20  # of the pass histograms; the Bhattacharyya coefficient depends on it


def measures(passes: np.ndarray, *, bins: int = BINS) -> Mapping[str, np.ndarray]:
    """Every measure by name; all but ``max_probability`` grow with uncertainty.

    ``entropy`` of the mean in nats, ``normalised_entropy`` = entropy / ln C, ``variance``, ``bhattacharyya``,
    ``mutual_information`` in nats, ``max_probability`` of the mean.

    Args:
        passes: probabilities [T, N, C], T ≥ 1, C ≥ 2.
    """
    p = np.asarray(passes, np.float64)
    mean = p.mean(axis=0)
    total = entropy(mean)
    return {
        "entropy": total,
        "normalised_entropy": total / np.log(p.shape[2]),
        "variance": variance(p),
        "bhattacharyya": bhattacharyya(p, bins=bins),
        "mutual_information": np.maximum(0.0, total - entropy(p).mean(axis=0)) * (len(p) > 1),
        "max_probability": mean.max(axis=1),
    }


def variance(passes: np.ndarray) -> np.ndarray:
    """Mean over passes and classes of (p − mean over passes)²; exactly 0 for one pass."""
    p = np.asarray(passes, np.float64)
    return ((p - p.mean(axis=0)) ** 2).mean(axis=(0, 2))


def bhattacharyya(passes: np.ndarray, *, bins: int = BINS) -> np.ndarray:
    """Σ over bins of √(h1 · h2), the pass histograms on [0, 1] of the two most probable classes; 1 is most uncertain.

    A probability of 1 falls in the last bin; ties in the mean go to the earlier class.
    """
    p = np.asarray(passes, np.float64)
    images = np.arange(p.shape[1])
    first, second = np.argsort(-p.mean(axis=0), axis=1, kind="stable")[:, :2].T
    one, two = (_histograms(p[:, images, c], bins) for c in (first, second))
    return np.minimum(1.0, np.sqrt(one * two).sum(axis=1))


def _histograms(values: np.ndarray, bins: int) -> np.ndarray:
    """[T, N] values in [0, 1] → [N, bins] shares."""
    passes, images = values.shape
    place = np.minimum((values * bins).astype(np.int64), bins - 1) + np.arange(images) * bins
    return np.bincount(place.ravel(), minlength=images * bins).reshape(images, bins) / passes

"""The information plane of a classifier: what its output keeps of the picture, I(X;T), and says of the class, I(T;Y).

After Cheng, Lian, Gao, Geng (Entropy 2019, 21(5):456): T is the model's *output*; each class probability is binned, the tuple
of bins is one symbol. T is a function of X, so I(X;T) = H(T); I(T;Y) is the plug-in estimate, at most H(Y). All values in bits.

The plug-in estimate is too high on few images: by about (K − 1)(L − 1) / (2 N ln 2) for K symbols and L classes that have
nothing to do with one another (Miller 1955). So every point carries that bias, the corrected value, and what the estimate says
when the labels are shuffled. Points are comparable only at equal N.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.trust.intervals import jackknife

BINS = 3  # ours: with more, a seven-class model has a symbol of its own for almost every image
SAMPLES = 1000  # images a point rests on, the same for every model
SHUFFLES = 100


def symbols(probabilities: np.ndarray, *, bins: int = BINS) -> np.ndarray:
    """The symbol of each image: the tuple of its binned probabilities, numbered, int64 [N].

    Args:
        probabilities: [N, C] in [0, 1] up to rounding; bins are equally wide and 1.0 falls in the last.

    Raises:
        DataError: ``plane-probabilities`` (another shape, no images, not in [0, 1]), ``plane-bins``.
    """
    if not 2 <= bins <= 1000:
        raise DataError(f"bins: expected 2 to 1000, got {bins}", code="plane-bins")
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not p.size or not (np.isfinite(p).all() and p.min() >= -1e-5 and p.max() <= 1 + 1e-5):
        raise DataError(
            f"information plane: expected probabilities [images, classes] between 0 and 1, got {_told(p)}",
            code="plane-probabilities",
        )
    binned = np.clip(np.floor(p * bins), 0, bins - 1).astype(np.int16)
    return np.asarray(np.unique(binned, axis=0, return_inverse=True)[1], np.int64).ravel()


def _told(p: np.ndarray) -> str:
    if not p.size or p.ndim != 2:
        return f"an array of shape {list(p.shape)}"
    return f"values from {p.min():g} to {p.max():g}"


def entropy(values: np.ndarray) -> float:
    """Plug-in entropy of int [N], in bits."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log2(share)).sum()) + 0.0


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Plug-in mutual information of two int [N], in bits: Σ p(a, b) log₂ p(a, b) / (p(a) p(b)) over the pairs that occur."""
    n = len(one)
    names, a = np.unique(one, return_inverse=True)
    others, b = np.unique(other, return_inverse=True)
    table = np.bincount(a * len(others) + b, minlength=len(names) * len(others)).reshape(len(names), -1)
    apart = np.outer(table.sum(axis=1), table.sum(axis=0))
    seen = table > 0
    return max(0.0, float((table[seen] / n * np.log2(table[seen] * float(n) / apart[seen])).sum()))


def bias(kinds: int, classes: int, n: int) -> float:
    """How far the plug-in estimate is too high where nothing is shared: (K − 1)(L − 1) / (2 N ln 2) bits."""
    return (kinds - 1) * (classes - 1) / (2 * n * float(np.log(2)))


@dataclass(frozen=True)
class Point:
    """A place on the plane, in bits, and what it rests on."""

    i_xt: float  # = H(T)
    i_ty: float  # plug-in
    bias: float
    i_ty_corrected: float  # plug-in − bias; below 0 the images do not carry an estimate
    h_y: float  # the most that i_ty can be
    symbols: int
    samples: int


def place(t: np.ndarray, targets: np.ndarray) -> Point:
    """The point of symbols int [N] (``symbols``) with their classes int [N]."""
    kinds, classes, n = len(np.unique(t)), len(np.unique(targets)), len(targets)
    shared, off = mutual_information(t, targets), bias(kinds, classes, n)
    return Point(entropy(t), shared, off, shared - off, entropy(targets), kinds, n)


def shuffled(t: np.ndarray, targets: np.ndarray, *, repeats: int = SHUFFLES, seed: int = 0) -> dict[str, Any]:
    """What the plug-in estimate says of labels that say nothing: ``{mean, low, high, repeats}``, 95 % of the shuffles between."""
    rng = np.random.default_rng(seed)
    drawn = [mutual_information(t, rng.permutation(targets)) for _ in range(repeats)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": float(np.mean(drawn)), "low": float(low), "high": float(high), "repeats": repeats}


def describe(
    probabilities: np.ndarray, targets: np.ndarray, *, bins: int = BINS, seed: int = 0
) -> dict[str, Any]:
    """A model's point with its shuffled control: the keys of ``Point``, and ``bins`` and ``shuffled``."""
    t = symbols(probabilities, bins=bins)
    return {**asdict(place(t, targets)), "bins": bins, "shuffled": shuffled(t, targets, seed=seed)}


def says(t: np.ndarray, targets: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    """The corrected I(T;Y) with an interval over lesions or patients."""
    return jackknife(lambda i: place(t[i], targets[i]).i_ty_corrected, groups)


def gap(one: np.ndarray, other: np.ndarray, targets: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    """How much more the symbols ``one`` say of the class than ``other`` of the same images, corrected, with an interval."""

    def apart(i: np.ndarray) -> float:
        return place(one[i], targets[i]).i_ty_corrected - place(other[i], targets[i]).i_ty_corrected

    return jackknife(apart, groups)


def by_class(t: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, Point]:
    """The points of “is it this class?”: I(T;Y_c) of every class with images on both sides."""
    found = {label: targets == c for c, label in enumerate(labels)}
    return {
        label: place(t, mine.astype(np.int64)) for label, mine in found.items() if 0 < mine.sum() < len(t)
    }


def saturation(images: Sequence[int], known: Sequence[float], *, most: float) -> dict[str, Any]:
    """How many training images a class needs, from what models say of it that were trained on fewer and more of them.

    Ours: I(n) = ceiling · n / (n + half), least squares, the ceiling at most ``most`` = H(Y_c). ``needed`` images give 95 % of
    the ceiling. A curve is not followed further than ten times the images it was drawn from.

    Args:
        images: training images of the class, by model. known: corrected I(T;Y_c), bits.

    Returns:
        ``{ceiling, half, reached, needed, missing, reason}``; None where the models do not tell, with the reason.
    """
    n, bits = np.asarray(images, np.float64), np.maximum(0.0, np.asarray(known, np.float64))
    silent = {key: None for key in ("ceiling", "half", "reached", "needed", "missing")}
    if len(np.unique(n)) < 3:
        why = f"needs models trained on at least three numbers of images, got {len(np.unique(n))} (train --share)"
        return {**silent, "reason": why}
    if not bits.any():
        return {**silent, "reason": "no model knows anything of this class"}
    halves = np.concatenate([[0.0], np.geomspace(0.01 * n.min(), 1000 * n.max(), 2000)])
    shapes = n / (n + halves[:, None])
    ceilings = np.clip((shapes @ bits) / (shapes**2).sum(axis=1), 0.0, most)
    best = int(((ceilings[:, None] * shapes - bits) ** 2).sum(axis=1).argmin())
    ceiling, half = float(ceilings[best]), float(halves[best])
    needed, now = 19 * half, float(n.max())
    found = {"ceiling": ceiling, "half": half, "reached": now / (now + half), "needed": None, "missing": None}
    if needed > 10 * now:
        return {
            **found,
            "reason": f"still rising at {now:.0f} images: more than ten times as many are needed",
        }
    return {**found, "needed": needed, "missing": max(0.0, needed - now), "reason": None}

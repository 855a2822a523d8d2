"""What a measure of uncertainty is worth: does it find the wrong answers, and the images that are none of the model's business?

Arrays in, plain records out. Every measure is turned so that a higher value means less sure.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import numpy as np

from edge_derm.trust import roc
from edge_derm.trust.intervals import resample, undefined

COVERAGE = 0.8  # share of answers at which the risk is stated
POINTS = 100  # of a risk–coverage curve
CONFIDENCE = "confidence"  # the mean probability of the class that is named
FALLING = ("max_probability", CONFIDENCE)  # measures that fall with uncertainty


def unsure(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The measures, each so that higher is less sure (1 − probability)."""
    return {name: 1 - value if name in FALLING else value for name, value in found.items()}


def judge(
    score: np.ndarray, wrong: np.ndarray, groups: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> dict[str, Any]:
    """How well ``score`` finds the wrong answers.

    Args:
        score: float [N], higher is less sure. wrong: bool [N]. groups: lesion or patient of each image.

    Returns:
        ``errors``: area under the ROC curve, wrong against right (DeLong); ``aurc``: mean risk over all coverages, and
        ``aurc_best``, that of a score that knows; ``risk_at_80``, and ``reduction_at_80``: its share of the full risk that
        is gone (bootstrap over groups).
    """

    def reduction(chosen: np.ndarray) -> float | None:
        full = wrong[chosen].mean()
        return None if not full else float(1 - risk_at(score[chosen], wrong[chosen], COVERAGE) / full)

    return {
        "errors": roc.auroc(score, wrong),
        "aurc": aurc(score, wrong),
        "aurc_best": aurc(wrong.astype(np.float64), wrong),
        "risk_at_80": resample(
            lambda i: risk_at(score[i], wrong[i], COVERAGE), groups, seed=seed, resamples=resamples
        ),
        "reduction_at_80": resample(reduction, groups, seed=seed, resamples=resamples),
    }


def risks(score: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Share of wrong answers among the k surest images, k = 1 … N, float64 [N]; ties are answered in random order, on average."""
    order = np.argsort(score, kind="stable")
    ordered, values = score[order], wrong[order].astype(np.float64)
    start = np.concatenate([[True], np.diff(ordered) != 0])
    group = np.cumsum(start) - 1
    means = np.bincount(group, weights=values) / np.bincount(group)
    return np.asarray(np.cumsum(means[group]) / np.arange(1, len(values) + 1))


def aurc(score: np.ndarray, wrong: np.ndarray) -> float | None:
    """Area under the risk–coverage curve: the mean of ``risks`` (Geifman and El-Yaniv, 2017, https://arxiv.org/abs/1705.08500)."""
    return float(risks(score, wrong).mean()) if len(wrong) else None


def risk_at(score: np.ndarray, wrong: np.ndarray, coverage: float) -> float:
    """Share of wrong answers when only the surest ``coverage`` of the images are answered."""
    kept = max(1, int(np.ceil(coverage * len(wrong) - 1e-9)))
    return float(risks(score, wrong)[kept - 1])


def risk_coverage(score: np.ndarray, wrong: np.ndarray) -> dict[str, list[float]]:
    """``{coverage, risk}``, thinned to ``POINTS``."""
    values = risks(score, wrong)
    keep = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).round().astype(int))
    return {"coverage": ((keep + 1) / len(values)).tolist(), "risk": values[keep].tolist()}


def foreign(inside: np.ndarray, outside: np.ndarray) -> dict[str, Any]:
    """Area under the ROC curve of telling foreign images (scores ``outside``) from the model's own (``inside``)."""
    if not len(inside) or not len(outside):
        return undefined("needs images of both kinds", len(inside) + len(outside))
    positive = np.concatenate([np.zeros(len(inside), bool), np.ones(len(outside), bool)])
    return roc.auroc(np.concatenate([inside, outside]), positive)


def stability(
    passes: np.ndarray,
    wrong: np.ndarray,
    measure: Callable[[np.ndarray], Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
    """How the measures settle with the number of passes: T = 1, 2, 4, … of the passes [T, N, C].

    ``errors`` is the area under the curve, ``agreement`` the rank correlation with all passes (Spearman).
    """
    counts = [2**k for k in range(int(np.log2(len(passes))) + 1)]
    counts += [len(passes)] if counts[-1] != len(passes) else []
    whole = unsure(measure(passes))
    rows = []
    for count in counts:
        found = unsure(measure(passes[:count]))
        rows.append(
            {
                "passes": count,
                "errors": {name: roc.auroc(value, wrong)["value"] for name, value in found.items()},
                "agreement": {name: spearman(value, whole[name]) for name, value in found.items()},
            }
        )
    return rows


def spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Rank correlation, ties sharing their mean rank; None where one of them does not vary."""
    a, b = (roc.midranks(values) - (len(values) + 1) / 2 for values in (one, other))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else None


def best(metrics: Mapping[str, Mapping[str, Any]], read: Callable[[Any], Any]) -> dict[str, Any] | None:
    """The sampling and measure whose figure is highest. The best of many is chosen on these images: it flatters a little."""
    found = [
        {"sampling": sampling, "measure": name, "figure": read(row)}
        for sampling, rows in metrics.items()
        for name, row in rows.items()
        if read(row)["value"] is not None
    ]
    return max(found, key=lambda row: row["figure"]["value"]) if found else None

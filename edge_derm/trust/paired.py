"""Every metric twice, of the float parent and of the deployed file, and their difference with its paired interval."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import numpy as np

from edge_derm.runtime.decision import confidences, named
from edge_derm.trust import calibration, roc
from edge_derm.trust.evaluate import balanced
from edge_derm.trust.intervals import RESAMPLES, figure, members_of, undefined

Named = Callable[[np.ndarray], np.ndarray]  # probabilities [N, C] → the classes that are named, int64 [N]


def compare_metrics(
    parent: np.ndarray,
    deployed: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    *,
    groups: Sequence[str],
    name: Named = named,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """``{metric: {float, deployed, difference}}``; the difference is deployed − float.

    The same images are drawn for both (bootstrap over groups), so that what they have in common cancels.

    Args:
        parent, deployed: probabilities [N, C]. targets: int64 [N].
    """
    both = (np.asarray(parent, np.float64), np.asarray(deployed, np.float64))
    names = metric_names(labels)
    decided = [name(p) for p in both]
    seen = np.array([values(p, d, targets, len(labels)) for p, d in zip(both, decided)])
    drawn = np.full((resamples, 2, len(names)), np.nan)
    rng = np.random.default_rng(seed)
    members = members_of(groups)
    for number in range(resamples):
        chosen = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        drawn[number] = [
            values(p[chosen], d[chosen], targets[chosen], len(labels)) for p, d in zip(both, decided)
        ]
    return {
        metric: {
            "float": _figure(seen[0, k], drawn[:, 0, k], len(targets)),
            "deployed": _figure(seen[1, k], drawn[:, 1, k], len(targets)),
            "difference": _figure(seen[1, k] - seen[0, k], drawn[:, 1, k] - drawn[:, 0, k], len(targets)),
        }
        for k, metric in enumerate(names)
    }


def metric_names(labels: Sequence[str]) -> list[str]:
    """In the order of ``values``; those of a class end in its label."""
    plain = ["accuracy", "balanced_accuracy", "ece", "adaptive_ece", "brier", "nll"]
    each = ("sensitivity", "specificity", "auroc", "average_precision")
    return plain + [f"{metric}.{label}" for metric in each for label in labels]


def values(p: np.ndarray, decided: np.ndarray, targets: np.ndarray, classes: int) -> list[float]:
    """Every metric as a number; NaN where the images do not define it."""
    confidence, correct = confidences(p, decided), decided == targets
    plain = [
        float(correct.mean()),
        balanced(decided, targets),
        calibration.ece(confidence, correct),
        calibration.adaptive_ece(confidence, correct),
        calibration.brier(p, targets),
        calibration.nll(p, targets),
    ]
    truth = targets[:, None] == np.arange(classes)
    called = decided[:, None] == np.arange(classes)
    with np.errstate(invalid="ignore"):
        sensitivity = (called & truth).sum(axis=0) / truth.sum(axis=0)
        specificity = (~called & ~truth).sum(axis=0) / (~truth).sum(axis=0)
    areas = [roc.area(p[:, c], truth[:, c]) for c in range(classes)]
    precision = [roc.average_precision(p[:, c], truth[:, c]) for c in range(classes)]
    rest = [np.nan if value is None else value for value in (*areas, *precision)]
    return [*plain, *sensitivity.tolist(), *specificity.tolist(), *rest]


def worst(metrics: Mapping[str, Mapping[str, Any]], prefix: str, *, falling: bool = True) -> float | None:
    """The largest drop (rise, with ``falling`` off) from float to deployed among the metrics of that prefix."""
    found = [
        row["difference"]["value"]
        for name, row in metrics.items()
        if name == prefix or name.startswith(prefix + ".")
    ]
    known = [value for value in found if value is not None]
    if not known:
        return None
    return max(-value if falling else value for value in known)


def _figure(value: float, drawn: np.ndarray, n: int) -> dict[str, Any]:
    kept = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(kept) < len(drawn) / 2:
        return undefined("not defined on these images", n)
    low, high = np.percentile(kept, [2.5, 97.5])
    return figure(value, min(low, value), max(high, value), n)

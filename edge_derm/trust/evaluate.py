"""Metrics of a classifier on labelled images, each with a 95 % interval and its number of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.runtime.decision import confidences
from edge_derm.trust import calibration, roc
from edge_derm.trust.intervals import resample, share
from edge_derm.trust.subgroups import SKIN_CAVEAT, shift, subgroups
from edge_derm.trust.task import cross_fit, operating_points, task_of, two_class

__all__ = [
    "balanced",
    "confusion",
    "cross_fit",
    "evaluate",
    "figures",
    "kept_promises",
    "operating_points",
    "per_class",
    "subgroups",
]


def evaluate(
    probabilities: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    *,
    groups: Sequence[str],
    image_ids: Sequence[str],
    meta: Sequence[Mapping[str, str]] = (),
    positive: str | None = None,
    negative: str | None = None,
    readers: Path | None = None,
    chooser: tuple[np.ndarray, np.ndarray] | None = None,
    reference: bool = False,
    decided: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures.

    Args:
        decided: int64 [N], the classes that were named; None: the most probable ones.
        probabilities: float [N, C]. targets: int64 [N] indices of ``labels``. groups: lesion or patient of each image.
        positive, negative: the two-class task: images of those two classes (of all others, without ``negative``), scored by
            p(positive) / (p(positive) + p(negative)).
        readers: CSV of reader decisions; needs ``positive``.
        chooser: probabilities and targets of a validation part: thresholds are chosen there; None: on the other half of the
            groups.
        reference: the published points of a reader study beside the curve.

    Raises:
        DataError: ``evaluate-empty``, ``label-unknown``, ``readers-…``.
    """
    if not len(targets):
        raise DataError("expected images to evaluate on, got none", code="evaluate-empty")
    _check_labels(labels, positive, negative, readers)
    p = np.asarray(probabilities, np.float64)
    decided = p.argmax(axis=1) if decided is None else decided
    confidence, correct = confidences(p, decided), decided == targets
    record = {
        "labels": list(labels),
        **figures(p, targets, labels, groups, decided=decided, seed=seed),
        "reliability": calibration.reliability(confidence, correct),
        "confusion": confusion(decided, targets, len(labels)).tolist(),
        "roc": {label: roc.curve(p[:, c], targets == c) for c, label in enumerate(labels)},
        "operating_points": None,
        "readers": None,
        "reader_study": None,
        "task": None,
    }
    two = None
    if positive is not None:
        task = task_of(p, targets, labels, positive, negative, groups, image_ids)
        other = None
        if chooser is not None:
            names = [str(i) for i in range(len(chooser[1]))]
            other = task_of(
                np.asarray(chooser[0], np.float64), chooser[1], labels, positive, negative, names, names
            )
        record.update(two_class(task, chooser=other, readers=readers, reference=reference, seed=seed))
        two = {"chosen": task.chosen, "score": task.score, "true": task.true}
        called = operating_points(task, other, seed)[1]["youden"]
        two |= {} if called is None else {"called": called}
    record["subgroups"] = subgroups(correct, meta, groups=groups, task=two, seed=seed)
    record["shift"] = shift(correct, meta, seed=seed)
    record["skin_tone_caveat"] = SKIN_CAVEAT if "skin_tone" in record["subgroups"] else None
    return record


def figures(
    p: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    decided: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The metrics that need no more than probabilities, the classes named (None: the most probable) and truth, with intervals."""
    decided = p.argmax(axis=1) if decided is None else decided
    confidence, correct = confidences(p, decided), decided == targets

    def drawn(statistic: Callable[[np.ndarray], float | None]) -> dict[str, Any]:
        return resample(statistic, groups, seed=seed)

    return {
        "accuracy": share(correct, groups, seed=seed),
        "balanced_accuracy": drawn(lambda i: balanced(decided[i], targets[i])),
        "per_class": {
            label: per_class(decided == c, targets == c, groups=groups, seed=seed)
            for c, label in enumerate(labels)
        },
        "auroc": {label: roc.auroc(p[:, c], targets == c) for c, label in enumerate(labels)},
        "average_precision": {
            label: drawn(lambda i, c=c: roc.average_precision(p[i, c], targets[i] == c))  # type: ignore[misc]
            for c, label in enumerate(labels)
        },
        "ece": drawn(lambda i: calibration.ece(confidence[i], correct[i])),
        "ece_debiased": calibration.ece_debiased(confidence, correct),
        "ece_noise": calibration.noise(confidence, seed=seed),
        "adaptive_ece": drawn(lambda i: calibration.adaptive_ece(confidence[i], correct[i])),
        "brier": drawn(lambda i: calibration.brier(p[i], targets[i])),
        "nll": drawn(lambda i: calibration.nll(p[i], targets[i])),
    }


def kept_promises(
    sets: Sequence[Sequence[str] | None],
    abstained: Sequence[bool | None],
    decided: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    *,
    groups: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Whether what ``calibrate`` promised holds on these images.

    ``coverage``: share of prediction sets that hold the truth, ``mean_set_size``; ``answered``: share of images not abstained
    on, ``risk``: share of these answers that are wrong. None where the bundle has no quantile or no threshold.
    """
    names = np.asarray(groups)
    told: dict[str, Any] = {"coverage": None, "mean_set_size": None, "answered": None, "risk": None}
    if sets[0] is not None:
        held = np.array([labels[t] in (row or ()) for t, row in zip(targets, sets)], bool)
        told["coverage"] = share(held, groups, seed=seed)
        told["mean_set_size"] = float(np.mean([len(row or ()) for row in sets]))
    if abstained[0] is not None:
        kept = ~np.array([bool(row) for row in abstained])
        told["answered"] = share(kept, groups, seed=seed)
        told["risk"] = share((decided != targets)[kept], names[kept], seed=seed)
    return told


def _check_labels(
    labels: Sequence[str], positive: str | None, negative: str | None, readers: Path | None
) -> None:
    for name, label in (("--positive", positive), ("--negative", negative)):
        if label is not None and label not in labels:
            raise DataError(
                f"{name}: expected one of {', '.join(labels)}, got {label!r}", code="label-unknown"
            )
    if positive is not None and positive == negative:
        raise DataError(
            f"--negative: expected another class than --positive, got {negative!r} twice",
            code="label-unknown",
        )
    if positive is None and (readers is not None or negative is not None):
        raise DataError(
            "expected --positive LABEL with --negative and --readers, got none", code="label-unknown"
        )


def balanced(decided: np.ndarray, targets: np.ndarray) -> float:
    """Mean recall over the classes present."""
    present = np.bincount(targets)
    hits = np.bincount(targets, weights=decided == targets)
    return float((hits[present > 0] / present[present > 0]).mean())


def confusion(decided: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """int64 [C, C]: rows are the truth, columns the decision."""
    return np.bincount(targets * classes + decided, minlength=classes * classes).reshape(classes, classes)


def per_class(
    called: np.ndarray, true: np.ndarray, *, groups: Sequence[str] | None = None, seed: int = 0
) -> dict[str, Any]:
    """One class against the rest: sensitivity, specificity and predictive values with intervals; F1."""
    hit, miss, alarm = int((called & true).sum()), int((~called & true).sum()), int((called & ~true).sum())
    names = None if groups is None else np.asarray(groups)

    def among(hits: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        return share(hits[chosen], None if names is None else names[chosen], seed=seed)

    return {
        "sensitivity": among(called, true),
        "specificity": among(~called, ~true),
        "ppv": among(true, called),
        "npv": among(~true, ~called),
        "f1": 2 * hit / (2 * hit + miss + alarm) if hit + miss + alarm else None,
        "n": hit + miss,
    }

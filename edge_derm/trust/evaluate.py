"""Metrics of a classifier on labelled images, each with a 95 % interval and its number of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.trust import calibration, readers as reading, roc
from edge_derm.trust.intervals import proportion, resample, undefined

FIXED = 0.9  # the sensitivity, and the specificity, that two of the operating points hold


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
    seed: int = 0,
) -> dict[str, Any]:
    """All figures.

    Args:
        probabilities: float [N, C]. targets: int64 [N] indices of ``labels``. groups: lesion or patient of each image.
        positive, negative: the two-class task: images of those two classes (of all others, without ``negative``), scored by
            p(positive) / (p(positive) + p(negative)).
        readers: CSV of reader decisions; needs ``positive``.

    Raises:
        DataError: ``evaluate-empty``, ``label-unknown``, ``readers-…``.
    """
    if not len(targets):
        raise DataError("expected images to evaluate on, got none", code="evaluate-empty")
    _check_labels(labels, positive, negative, readers)
    p = np.asarray(probabilities, np.float64)
    decided, confidence = p.argmax(axis=1), p.max(axis=1)
    correct = decided == targets
    record = {
        "labels": list(labels),
        "accuracy": proportion(int(correct.sum()), len(targets)),
        "balanced_accuracy": resample(lambda i: balanced(decided[i], targets[i]), groups, seed=seed),
        "per_class": {label: per_class(decided == c, targets == c) for c, label in enumerate(labels)},
        "auroc": {label: roc.auroc(p[:, c], targets == c) for c, label in enumerate(labels)},
        "average_precision": {
            label: roc.average_precision(p[:, c], targets == c) for c, label in enumerate(labels)
        },
        "ece": resample(lambda i: calibration.ece(confidence[i], correct[i]), groups, seed=seed),
        "adaptive_ece": resample(
            lambda i: calibration.adaptive_ece(confidence[i], correct[i]), groups, seed=seed
        ),
        "brier": resample(lambda i: calibration.brier(p[i], targets[i]), groups, seed=seed),
        "nll": resample(lambda i: calibration.nll(p[i], targets[i]), groups, seed=seed),
        "reliability": calibration.reliability(confidence, correct),
        "confusion": confusion(decided, targets, len(labels)).tolist(),
        "roc": {label: roc.curve(p[:, c], targets == c) for c, label in enumerate(labels)},
        "subgroups": subgroups(correct, meta),
        "operating_points": None,
        "readers": None,
        "task": None,
    }
    if positive is not None:
        record.update(two_class(p, targets, labels, positive, negative, groups, image_ids, readers, seed))
    return record


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


def per_class(called: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """One class against the rest: sensitivity, specificity and predictive values with Wilson intervals; F1."""
    hit, miss, alarm = int((called & true).sum()), int((~called & true).sum()), int((called & ~true).sum())
    reject = len(true) - hit - miss - alarm
    return {
        "sensitivity": proportion(hit, hit + miss),
        "specificity": proportion(reject, reject + alarm),
        "ppv": proportion(hit, hit + alarm),
        "npv": proportion(reject, reject + miss),
        "f1": 2 * hit / (2 * hit + miss + alarm) if hit + miss + alarm else None,
        "n": hit + miss,
    }


def subgroups(correct: np.ndarray, meta: Sequence[Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Accuracy by age band, sex and site, where the metadata tell."""
    tables: dict[str, dict[str, Any]] = {}
    for key, name in (("age", age_band), ("sex", str), ("localization", str)):
        values = np.array([name(row.get(key) or "unknown") for row in meta])
        if len(values) and set(values) != {"unknown"}:
            tables[key] = {
                str(v): proportion(int(correct[values == v].sum()), int((values == v).sum()))
                for v in sorted(set(values))
            }
    return tables


def age_band(text: str) -> str:
    """``45.0`` → ``40-59``."""
    try:
        low = int(float(text)) // 20 * 20
    except ValueError:
        return "unknown"
    return f"{low}-{low + 19}"


def two_class(
    p: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    positive: str,
    negative: str | None,
    groups: Sequence[str],
    image_ids: Sequence[str],
    readers: Path | None,
    seed: int,
) -> dict[str, Any]:
    """The positive class against the negative (or all others): area, operating points, readers."""
    a = list(labels).index(positive)
    if negative is None:
        chosen, score = np.ones(len(targets), bool), p[:, a]
    else:
        b = list(labels).index(negative)
        chosen = (targets == a) | (targets == b)
        score = p[:, a] / np.maximum(p[:, a] + p[:, b], 1e-12)
    score, true = score[chosen], targets[chosen] == a
    kept = [g for g, keep in zip(groups, chosen) if keep]
    names = [i for i, keep in zip(image_ids, chosen) if keep]
    points = operating_points(score, true, kept, seed)
    compared = None
    if readers is not None:
        decisions = reading.read_decisions(readers, positive, negative)
        youden = cross_fit(score, true, kept, "youden", None, seed)
        model = dict(zip(names, (bool(v) for v in youden if v is not None))) if youden is not None else {}
        compared = (
            reading.compare_readers(decisions, model, dict(zip(names, map(bool, true)))) if model else None
        )
    return {
        "task": {
            "positive": positive,
            "negative": negative,
            "auroc": roc.auroc(score, true),
            "roc": roc.curve(score, true),
            "n": len(true),
        },
        "operating_points": points,
        "readers": compared,
    }


def operating_points(score: np.ndarray, true: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """Sensitivity and specificity at thresholds chosen on the other half of the groups (two-fold cross-fitting).

    No image is judged by a threshold it helped to choose.
    """
    rules = {
        "youden": ("youden", None),
        f"sensitivity_{FIXED:.0%}": ("sensitivity", FIXED),
        f"specificity_{FIXED:.0%}": ("specificity", FIXED),
    }
    points: dict[str, Any] = {}
    for name, (rule, wanted) in rules.items():
        called = cross_fit(score, true, groups, rule, wanted, seed)
        if called is None:
            points[name] = {
                "sensitivity": undefined("needs positives and negatives in both halves", len(true)),
                "specificity": undefined("needs positives and negatives in both halves", len(true)),
                "threshold": None,
            }
            continue
        points[name] = {
            "sensitivity": proportion(int((called & true).sum()), int(true.sum())),
            "specificity": proportion(int((~called & ~true).sum()), int((~true).sum())),
            "threshold": roc.choose_threshold(score, true, rule, wanted),
        }
    return points


def cross_fit(
    score: np.ndarray, true: np.ndarray, groups: Sequence[str], rule: str, wanted: float | None, seed: int
) -> np.ndarray | None:
    """bool [N]: called positive, by the threshold chosen on the half of the groups an image is not in; None if undefined."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    first = {names[i] for i in order[: len(names) // 2]}
    half = np.array([group in first for group in groups], bool)
    called = np.zeros(len(true), bool)
    for side in (half, ~half):
        threshold = roc.choose_threshold(score[~side], true[~side], rule, wanted)
        if threshold is None:
            return None
        called[side] = score[side] >= threshold
    return called

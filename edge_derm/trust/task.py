"""The two-class task: a positive class against a negative one (or all others); operating points that no judged image chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from edge_derm.trust import readers as reading, roc
from edge_derm.trust.intervals import share, undefined

FIXED = 0.9  # the sensitivity, and the specificity, that two of the operating points hold

# Known from an abstract, not re-checked here. Brinker et al., 2019, Eur. J. Cancer 119:11–17.
REFERENCE = {
    "source": "Brinker et al., 2019, Eur. J. Cancer 119:11-17 (abstract; not re-checked here)",
    "caveat": "other images, other readers, another split: these points may be looked at beside a curve, never tested against it",
    "images": {"melanoma": 402, "naevi": 402},
    "points": {
        "dermatologists, nine German university hospitals": {
            "sensitivity": {"value": 0.672, "low": 0.626, "high": 0.717},
            "specificity": {"value": 0.622, "low": 0.576, "high": 0.669},
        },
        "their network": {
            "sensitivity": {"value": 0.823, "low": 0.783, "high": 0.857},
            "specificity": {"value": 0.779, "low": 0.738, "high": 0.818},
        },
    },
}


@dataclass(frozen=True)
class Task:
    """Images of the task among those judged: which, their scores, which are positive, their groups and ids."""

    positive: str
    negative: str | None
    chosen: np.ndarray  # bool [all images]
    score: np.ndarray  # float64 [n]
    true: np.ndarray  # bool [n]
    groups: Sequence[str]
    names: Sequence[str]


def task_of(
    p: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    positive: str,
    negative: str | None,
    groups: Sequence[str],
    image_ids: Sequence[str],
) -> Task:
    """The images and scores of a task; the score is p(positive), against a negative class p(positive) of the two."""
    a = list(labels).index(positive)
    if negative is None:
        chosen, score = np.ones(len(targets), bool), p[:, a]
    else:
        b = list(labels).index(negative)
        chosen = (targets == a) | (targets == b)
        score = p[:, a] / np.maximum(p[:, a] + p[:, b], 1e-12)
    kept = np.flatnonzero(chosen).tolist()
    return Task(
        positive,
        negative,
        chosen,
        score[chosen],
        targets[chosen] == a,
        [groups[i] for i in kept],
        [image_ids[i] for i in kept],
    )


def two_class(
    task: Task, *, chooser: Task | None, readers: Path | None, reference: bool, seed: int
) -> dict[str, Any]:
    """Area, operating points, comparison with readers.

    Args:
        chooser: the same task on a validation part, on which thresholds are chosen; None: on the other half of the groups.
        reference: put the published points beside the curve.
    """
    points, called = operating_points(task, chooser, seed)
    compared = study = None
    if readers is not None:
        decisions = reading.read_decisions(readers, task.positive, task.negative)
        compared = {}
        if called["youden"] is not None:
            model = dict(zip(task.names, map(bool, called["youden"])))
            truth = dict(zip(task.names, map(bool, task.true)))
            groups = dict(zip(task.names, task.groups))
            compared = reading.compare_readers(decisions, model, truth, groups=groups, seed=seed)
        study = reading.about(compared)
    return {
        "task": {
            "positive": task.positive,
            "negative": task.negative,
            "auroc": roc.auroc(task.score, task.true),
            "roc": roc.curve(task.score, task.true),
            "n": len(task.true),
            "chosen_on": "the other half of the lesions" if chooser is None else "the validation part",
            "chooser_images": None if chooser is None else len(chooser.true),
            "reference": REFERENCE if reference else None,
        },
        "operating_points": points,
        "readers": compared or None,
        "reader_study": study,
    }


def operating_points(
    task: Task, chooser: Task | None, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray | None]]:
    """Sensitivity, specificity and positive predictive value at three thresholds, and who was called positive by each.

    No image is judged by a threshold it helped to choose.
    """
    rules: dict[str, tuple[str, float | None]] = {
        "youden": ("youden", None),
        f"sensitivity_{FIXED:.0%}": ("sensitivity", FIXED),
        f"specificity_{FIXED:.0%}": ("specificity", FIXED),
    }
    points: dict[str, Any] = {}
    decisions: dict[str, np.ndarray | None] = {}
    for name, (rule, wanted) in rules.items():
        if chooser is None:
            called = cross_fit(task.score, task.true, task.groups, rule, wanted, seed)
            threshold = roc.choose_threshold(task.score, task.true, rule, wanted)
        else:
            threshold = roc.choose_threshold(chooser.score, chooser.true, rule, wanted)
            called = None if threshold is None else task.score >= threshold
        decisions[name] = called
        points[name] = _point(called, task, threshold, seed)
    return points, decisions


def _point(called: np.ndarray | None, task: Task, threshold: float | None, seed: int) -> dict[str, Any]:
    if called is None:
        nothing = undefined("needs positives and negatives to choose on", len(task.true))
        return {"sensitivity": nothing, "specificity": nothing, "ppv": nothing, "threshold": None}
    true, groups = task.true, np.asarray(task.groups)
    return {
        "sensitivity": share(called[true], groups[true], seed=seed),
        "specificity": share(~called[~true], groups[~true], seed=seed),
        "ppv": share(true[called], groups[called], seed=seed),
        "threshold": threshold,
    }


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

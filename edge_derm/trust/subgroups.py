"""Subgroups: how good it is for whom, where and with which device, each figure with its interval and its number of images."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from edge_derm.trust import roc
from edge_derm.trust.intervals import share
from edge_derm.trust.readers import holm

PERSON = ("age", "sex", "localization", "skin_tone")
SOURCE = (
    "dataset",
    "source",
    "device",
    "institution",
    "attribution",
    "image_type",
)  # where an image comes from
DRAWS = 2000
MOST = 30  # values of one key; a key with more is no grouping (an identifier)

SKIN_CAVEAT = (
    "skin tone is estimated from the picture's border (individual typology angle of uncalibrated colours): light and camera "
    "move it, and it is no statement about a person; groups are Del Bino and Bernerd's (2013)"
)


def subgroups(
    correct: np.ndarray,
    meta: Sequence[Mapping[str, str]],
    *,
    groups: Sequence[str] | None = None,
    task: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Accuracy by what the metadata tell: age band, sex, site, skin tone, source, device.

    Args:
        correct: bool [N]. meta: of each image.
        groups: lesion or patient of each image.
        task: ``chosen`` bool [N], and of those chosen ``score``, ``true`` and perhaps ``called``: adds the two-class figures.
    """
    tables: dict[str, dict[str, Any]] = {}
    names = np.asarray(groups if groups is not None else [str(i) for i in range(len(correct))])
    for key in (*PERSON, *SOURCE):
        values = grouping(meta, key)
        if values is None:
            continue
        tables[key] = {}
        for value in sorted(set(values)):
            inside = values == value
            row = share(correct[inside], names[inside], seed=seed)
            tables[key][str(value)] = row if task is None else {**row, **_two_class(task, inside)}
    return tables


def grouping(meta: Sequence[Mapping[str, str]], key: str) -> np.ndarray | None:
    """The group of each image by one key; None where the metadata do not tell or the key names single images."""
    name = age_band if key == "age" else str
    values = np.array([name(row.get(key) or "unknown") for row in meta])
    distinct = set(values)
    return None if not len(values) or distinct == {"unknown"} or len(distinct) > MOST else values


def shift(correct: np.ndarray, meta: Sequence[Mapping[str, str]], *, seed: int = 0) -> dict[str, Any]:
    """Does accuracy differ between the groups of a key by more than chance?

    For each key: the lowest and highest group of at least ten images, their difference, and the p value of a permutation
    test of Σ n (accuracy − mean)², Holm-adjusted over the keys. Groups of unknown value are left out. Groups also differ in
    their diagnoses: a difference says where to look, not why it is there.
    """
    rows: dict[str, Any] = {}
    for key in (*PERSON, *SOURCE):
        values = grouping(meta, key)
        if values is None:
            continue
        known = values != "unknown"
        row = _spread(correct[known], values[known], seed)
        if row is not None:
            rows[key] = row
    for row, adjusted in zip(rows.values(), holm([row["p"] for row in rows.values()])):
        row["p_holm"] = adjusted
    return rows


def _spread(correct: np.ndarray, values: np.ndarray, seed: int) -> dict[str, Any] | None:
    names, place = np.unique(values, return_inverse=True)
    counts = np.bincount(place)
    if (counts >= 10).sum() < 2:
        return None
    hits = correct.astype(np.float64)

    def between(order: np.ndarray) -> float:
        means = np.bincount(place, weights=hits[order]) / counts
        return float((counts * (means - hits.mean()) ** 2).sum())

    rng = np.random.default_rng(seed)
    seen = between(np.arange(len(hits)))
    above = sum(between(rng.permutation(len(hits))) >= seen - 1e-9 for _ in range(DRAWS))
    means = np.where(counts >= 10, np.bincount(place, weights=hits) / counts, np.nan)
    low, high = int(np.nanargmin(means)), int(np.nanargmax(means))
    return {
        "lowest": str(names[low]),
        "highest": str(names[high]),
        "difference": float(means[high] - means[low]),
        "p": (above + 1) / (DRAWS + 1),
    }


def _two_class(task: Mapping[str, np.ndarray], inside: np.ndarray) -> dict[str, Any]:
    here = inside[task["chosen"]]
    true = task["true"][here]
    figures: dict[str, Any] = {"auroc": roc.auroc(task["score"][here], true)}
    called = task.get("called")
    if called is not None:
        figures["sensitivity"] = share(called[here][true], None)
        figures["specificity"] = share(~called[here][~true], None)
    return figures


def age_band(text: str) -> str:
    """``45.0`` → ``40-59``."""
    try:
        low = int(float(text)) // 20 * 20
    except (ValueError, OverflowError):
        return "unknown"
    return f"{low}-{low + 19}"

"""Comparison with human readers on the same images: per-reader and pooled figures, exact McNemar tests.

A reader decides per image whether it is the positive class. The comparison is paired: the same images, the same truth.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.trust.intervals import RESAMPLES, figure, proportion, share, undefined

COLUMNS = ("reader", "image_id", "decision")


def read_decisions(path: Path, positive: str, negative: str | None) -> dict[str, dict[str, bool]]:
    """``reader,image_id,decision`` → reader → image id → whether they called it positive.

    A decision is the positive or negative label, or one of 1/0, yes/no, true/false.

    Raises:
        DataError: ``readers-missing``, ``readers-columns``, ``readers-decision``, ``readers-duplicate``, ``readers-empty``.
    """
    meaning = {
        "1": True,
        "yes": True,
        "true": True,
        "0": False,
        "no": False,
        "false": False,
        positive.lower(): True,
    }
    if negative:
        meaning[negative.lower()] = False
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or []):
                raise DataError(
                    f"{path}: expected the columns {', '.join(COLUMNS)}, got "
                    f"{', '.join(reader.fieldnames or []) or 'none'}",
                    code="readers-columns",
                )
            found: dict[str, dict[str, bool]] = {}
            for number, row in enumerate(reader, 2):
                _take(found, row, number, path, meaning)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(
            f"{path}: expected a CSV of reader decisions, found no such file", code="readers-missing"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, got other bytes", code="readers-columns") from error
    if not found:
        raise DataError(f"{path}: expected reader decisions, found only the header", code="readers-empty")
    return found


def _take(
    found: dict[str, dict[str, bool]],
    row: Mapping[str, str | None],
    number: int,
    path: Path,
    meaning: Mapping[str, bool],
) -> None:
    name, image_id, said = ((row[column] or "").strip() for column in COLUMNS)
    if said.lower() not in meaning:
        raise DataError(
            f"{path}, line {number}: expected a decision out of {', '.join(meaning)}, got {said!r}",
            code="readers-decision",
        )
    if image_id in found.setdefault(name, {}):
        raise DataError(
            f"{path}, line {number}: reader {name} decided on {image_id} twice", code="readers-duplicate"
        )
    found[name][image_id] = meaning[said.lower()]


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar test: p of a split this uneven of the discordant pairs under a fair coin.

    Counted in whole numbers; the one division is correctly rounded, whatever their size.

    Args:
        first_only, second_only: pairs that only the first, only the second got right.
    """
    n, k = first_only + second_only, min(first_only, second_only)
    if n == 0:
        return 1.0
    term = tail = 1
    for i in range(k):
        term = term * (n - i) // (i + 1)  # n over i + 1
        tail += term
    return min(1.0, 2 * tail / 2**n)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several tests at once."""
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        worst = max(worst, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = worst
    return adjusted


def compare_readers(
    decisions: Mapping[str, Mapping[str, bool]],
    model: Mapping[str, bool],
    truth: Mapping[str, bool],
    *,
    groups: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Each reader, and all pooled, against the model on the images both decided.

    Args:
        model, truth: image id → called positive, is positive. groups: image id → lesion or patient (default: the image).

    Returns:
        ``{reader: {sensitivity, specificity, model_sensitivity, model_specificity, mcnemar{positives, negatives, all}}}``.
        ``p_holm`` is adjusted over the three tests of a row, ``p_holm_study`` over those of every row. ``pooled`` takes every
        decision of every reader; its intervals are drawn over readers and over lesions (two-way bootstrap: decisions of one
        reader, and on one lesion, belong together), its tests compare the readers' majority with the model, image by image.
    """
    named = {name: [i for i in said if i in truth] for name, said in decisions.items()}
    rows = {
        name: _compared(_pairs(decisions[name], model, truth, shared))
        for name, shared in named.items()
        if shared
    }
    if not rows:
        return {}
    rows["pooled"] = _pooled(decisions, named, model, truth, groups or {}, seed)
    tests = [test for row in rows.values() for test in row["mcnemar"].values()]
    for test, adjusted in zip(tests, holm([test["p"] for test in tests])):
        test["p_holm_study"] = adjusted
    return rows


def about(rows: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of the tables must know: how many tests, how they are adjusted, what pooled means."""
    return {
        "readers": max(0, len(rows) - 1),
        "tests": 3 * len(rows),
        "multiplicity": "Holm: p_holm over the three tests of a row, p_holm_study over all tests of the study",
        "pooled": "every decision of every reader; intervals by a bootstrap over readers and lesions; McNemar on the "
        "majority of the readers of an image, ties counting as positive",
        "model": "at the threshold with the largest sensitivity + specificity, chosen on other images",
    }


def _pairs(
    said: Mapping[str, bool], model: Mapping[str, bool], truth: Mapping[str, bool], shared: Sequence[str]
) -> np.ndarray:
    return np.array([(said[i], model[i], truth[i]) for i in shared], dtype=bool).reshape(-1, 3)


def _compared(pairs: np.ndarray) -> dict[str, Any]:
    said, model, truth = pairs.T
    return {
        "n": len(truth),
        "sensitivity": proportion(int(said[truth].sum()), int(truth.sum())),
        "specificity": proportion(int((~said[~truth]).sum()), int((~truth).sum())),
        "model_sensitivity": proportion(int(model[truth].sum()), int(truth.sum())),
        "model_specificity": proportion(int((~model[~truth]).sum()), int((~truth).sum())),
        "mcnemar": _tests(pairs),
    }


def _tests(pairs: np.ndarray) -> dict[str, Any]:
    """Exact McNemar on paired correctness: positives, negatives, all."""
    said, model, truth = pairs.T
    right, model_right = said == truth, model == truth
    sets = {"positives": truth, "negatives": ~truth, "all": np.ones(len(truth), bool)}
    counts = {
        name: (int((model_right & ~right & s).sum()), int((right & ~model_right & s).sum()))
        for name, s in sets.items()
    }
    raw = {name: mcnemar(*split) for name, split in counts.items()}
    adjusted = dict(zip(raw, holm(list(raw.values()))))
    return {
        name: {
            "p": raw[name],
            "p_holm": adjusted[name],
            "n": int(s.sum()),
            "only_model_right": counts[name][0],
            "only_readers_right": counts[name][1],
        }
        for name, s in sets.items()
    }


def _pooled(
    decisions: Mapping[str, Mapping[str, bool]],
    named: Mapping[str, Sequence[str]],
    model: Mapping[str, bool],
    truth: Mapping[str, bool],
    groups: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    names = [name for name, shared in named.items() if shared]
    images = sorted({i for name in names for i in named[name]})
    said = np.full((len(names), len(images)), np.nan)
    for row, name in enumerate(names):
        shared = set(named[name])
        said[row] = [float(decisions[name][i]) if i in shared else np.nan for i in images]
    true = np.array([truth[i] for i in images], bool)
    called = np.array([model[i] for i in images], bool)
    seen = ~np.isnan(said)
    votes = np.where(seen, said, 0).sum(axis=0)
    majority = votes >= seen.sum(axis=0) / 2
    lesions = [groups.get(i, i) for i in images]
    return {
        "n": int(seen.sum()),
        "images": len(images),
        "sensitivity": two_way(said[:, true], [g for g, t in zip(lesions, true) if t], seed=seed),
        "specificity": two_way(1 - said[:, ~true], [g for g, t in zip(lesions, true) if not t], seed=seed),
        "model_sensitivity": share(called[true], [g for g, t in zip(lesions, true) if t], seed=seed),
        "model_specificity": share(~called[~true], [g for g, t in zip(lesions, true) if not t], seed=seed),
        "mcnemar": _tests(np.stack([majority, called, true], axis=1)),
    }


def two_way(
    hits: np.ndarray, groups: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The share of hits over all decisions, percentile bootstrap over readers and over groups of images at once.

    Args:
        hits: float [readers, images], 1 or 0; NaN where a reader did not decide. groups: lesion or patient of each image.
    """
    seen = ~np.isnan(hits)
    if not seen.any():
        return undefined("no decisions", 0)
    values = np.where(seen, hits, 0.0)
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    count = int(place.max()) + 1
    summed = np.stack([np.bincount(place, weights=row, minlength=count) for row in values])
    decided = np.stack([np.bincount(place, weights=row.astype(float), minlength=count) for row in seen])
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        readers = np.bincount(rng.integers(0, len(hits), len(hits)), minlength=len(hits))
        lesions = np.bincount(rng.integers(0, count, count), minlength=count)
        total = float(readers @ decided @ lesions)
        if total:
            drawn.append(float(readers @ summed @ lesions) / total)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return figure(float(values.sum() / seen.sum()), low, high, int(seen.sum()))

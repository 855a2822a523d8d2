"""Comparison with human readers on the same images: per-reader and pooled figures, exact McNemar tests.

A reader decides per image whether it is the positive class. The comparison is paired: the same images, the same truth.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.trust.intervals import proportion

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

    Args:
        first_only, second_only: pairs that only the first, only the second got right.
    """
    n, k = first_only + second_only, min(first_only, second_only)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return (
        min(1.0, float(2 * tail / 2**n))
        if n < 1000
        else min(1.0, 2 * math.exp(math.log(tail) - n * math.log(2)))
    )


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several tests at once."""
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        worst = max(worst, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = worst
    return adjusted


def compare_readers(
    decisions: Mapping[str, Mapping[str, bool]], model: Mapping[str, bool], truth: Mapping[str, bool]
) -> dict[str, Any]:
    """Each reader, and all pooled, against the model on the images both decided.

    Args:
        model, truth: image id → called positive, is positive.

    Returns:
        ``{reader: {sensitivity, specificity, model_sensitivity, model_specificity, mcnemar{positives, negatives, all}}}``;
        p values are Holm-adjusted over the three tests of a reader. ``pooled`` counts every decision of every reader.
    """
    rows = {name: _pairs(said, model, truth) for name, said in decisions.items()}
    rows["pooled"] = np.concatenate(list(rows.values())) if rows else np.empty((0, 3), bool)
    return {name: _compared(pairs) for name, pairs in rows.items() if len(pairs)}


def _pairs(said: Mapping[str, bool], model: Mapping[str, bool], truth: Mapping[str, bool]) -> np.ndarray:
    shared = [image_id for image_id in said if image_id in truth]
    return np.array([(said[i], model[i], truth[i]) for i in shared], dtype=bool).reshape(-1, 3)


def _compared(pairs: np.ndarray) -> dict[str, Any]:
    said, model, truth = pairs.T
    right, model_right = said == truth, model == truth
    sets = {"positives": truth, "negatives": ~truth, "all": np.ones(len(truth), bool)}
    raw = [
        mcnemar(int((model_right & ~right & s).sum()), int((right & ~model_right & s).sum()))
        for s in sets.values()
    ]
    tests = {
        name: {"p": p, "p_holm": q, "n": int(s.sum())}
        for (name, s), p, q in zip(sets.items(), raw, holm(raw))
    }
    return {
        "n": len(truth),
        "sensitivity": proportion(int(said[truth].sum()), int(truth.sum())),
        "specificity": proportion(int((~said[~truth]).sum()), int((~truth).sum())),
        "model_sensitivity": proportion(int(model[truth].sum()), int(truth.sum())),
        "model_specificity": proportion(int((~model[~truth]).sum()), int((~truth).sum())),
        "mcnemar": tests,
    }

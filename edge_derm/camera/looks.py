"""From frames to looks: what one person saw of one lesion, in figures that can be counted as one observation.

Frames of a video depend on each other; looks do not. A look is the answered frames less than ``PAUSE_S`` apart, at most
``LONGEST_S`` of them, and its figures are medians over its frames. A camera that always shows one thing gives looks that
depend on each other all the same: its figures say little about drift.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np

from edge_derm.errors import DataError
from edge_derm.trust.drift import Sample

PAUSE_S, LONGEST_S = 2.0, 30.0
QUALITY = ("light", "glare", "red", "yellow", "focus", "contrast", "area", "offset")
FIGURES = ("confidence", "entropy", *QUALITY)

Look = tuple[str, tuple[float, ...]]  # the label, and FIGURES


class Gatherer:
    """Takes the described frames (``log.describe``) one by one; ``add`` returns a look when it is over, else None."""

    def __init__(self) -> None:
        self._labels: Counter[str] = Counter()
        self._rows: list[list[float]] = []
        self._begun_s = self._last_s = 0.0

    def add(self, row: Mapping[str, Any], now_s: float) -> Look | None:
        """One frame at ``now_s`` (seconds of any clock); only answered frames count."""
        if row["status"] != "answered":
            return None
        over = self._rows and (now_s - self._last_s > PAUSE_S or now_s - self._begun_s > LONGEST_S)
        look = self.finish() if over else None
        if not self._rows:
            self._begun_s = now_s
        self._last_s = now_s
        self._labels[row["label"]] += 1
        self._rows.append([row["confidence"], row["entropy"], *(row["quality"][name] for name in QUALITY)])
        return look

    def finish(self) -> Look | None:
        """The look that is still open, if any."""
        if not self._rows:
            return None
        look = self._labels.most_common(1)[0][0], tuple(np.median(self._rows, axis=0).tolist())
        self._labels, self._rows = Counter(), []
        return look


def sample(looks: Sequence[Look], labels: Sequence[str]) -> Sample:
    """Looks as observations. Raises DataError ``log-labels``: a label that the bundle does not have."""
    unknown = sorted({label for label, _ in looks} - set(labels))
    if unknown:
        raise DataError(
            f"the log: expected the bundle's labels ({', '.join(labels)}), got {unknown[0]}: give the log of this bundle",
            code="log-labels",
        )
    values = np.array([figures for _, figures in looks], np.float64).reshape(len(looks), len(FIGURES))
    decided = np.array([labels.index(label) for label, _ in looks], np.int64)
    return Sample(decided, dict(zip(FIGURES, values.T)))


def read_log(path: Path) -> tuple[list[Look], int]:
    """Looks of a prediction log: one file, or a folder of ``predictions-*.jsonl``; and how many torn lines were left out.

    Raises:
        DataError: ``log-missing``; ``log-line``: what ``camera --log`` writes is expected.
    """
    paths = sorted(path.glob("predictions-*.jsonl")) if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        raise DataError(
            f"{path}: expected a prediction log, found none: give what 'edge-derm camera --log DIR' wrote",
            code="log-missing",
        )
    gatherer, torn = Gatherer(), list[str]()
    looks = [gatherer.add(row, row["time_s"]) for row in _rows(paths, torn)]
    return [look for look in (*looks, gatherer.finish()) if look], len(torn)


def _rows(paths: Iterable[Path], torn: list[str]) -> Iterator[dict[str, Any]]:
    """Every whole line; torn ones are put aside."""
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith("\n"):
                    torn.append(line)  # the power went while it was written
                    continue
                yield _row(line, f"{path}, line {number}")


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        right = isinstance(row["time_s"], (int, float)) and isinstance(row["status"], str)
        if row["status"] == "answered":
            numbers = [row["confidence"], row["entropy"], *(row["quality"][q] for q in QUALITY)]
            right = right and isinstance(row["label"], str) and bool(np.isfinite(numbers).all())
    except (ValueError, KeyError, TypeError, AttributeError):
        right = False
    if not right:
        raise DataError(
            f"{where}: expected a line of 'edge-derm camera --log', got {line[:60].strip()!r}",
            code="log-line",
        )
    return row

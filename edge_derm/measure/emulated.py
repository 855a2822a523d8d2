"""What the emulated targets share: the images they are shown, counts from marks, parity with this machine, and their record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from edge_derm.bundle import check_model, open_bundle
from edge_derm.measure import onboard, record
from edge_derm.measure.environment import environment
from edge_derm.measure.models import open_classifier, read_model
from edge_derm.runtime import golden
from edge_derm.runtime.interpreter import backend_version
from firmware_bridge.summary import count_operators

INFERENCES = 10
IMAGES = 4
MARKS = 2 + 2 * INFERENCES  # of one model
_ARENA = "LiteRT's Python API does not tell the size of its tensor arena"


@dataclass(frozen=True)
class Found:
    """What an emulated core or board gave for one model; ``counts`` is empty where nothing was counted."""

    path: Path
    counts: tuple[int, ...]
    parity: dict[str, Any]
    peak_rss_bytes: int | None = None

    def instructions(self) -> dict[str, Any]:
        """``{instructions, instructions_range}``: median and extremes."""
        if not self.counts:
            return {"instructions": None, "instructions_range": None}
        return {
            "instructions": int(np.median(self.counts)),
            "instructions_range": [min(self.counts), max(self.counts)],
        }


def images_for(path: Path) -> np.ndarray:
    """uint8 [N, S, S, 3]: the bundle's golden inputs, else seeded noise from full contrast to flat."""
    if path.is_dir():
        bundle = open_bundle(path)
        name = bundle.named(golden.ROLE)
        if name is not None:
            return golden.read(bundle.part(name))["inputs"][:IMAGES]
    side = open_classifier(path).size_px
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, side, side, 3))
    contrast = np.linspace(1, 0, IMAGES)[:, None, None, None]
    return (128 + (noise - 128) * contrast).astype(np.uint8)


def inferences(marks: Sequence[int]) -> tuple[int, ...]:
    """Instructions of each inference: differences of the paired marks, less the first pair's, which holds nothing."""
    pairs = [after - before for before, after in zip(marks[::2], marks[1::2])]
    return tuple(pair - pairs[0] for pair in pairs[1:])


def parity(path: Path, images: np.ndarray, there: dict[str, Any], *, backend_there: str) -> dict[str, Any]:
    """How far stored scores made elsewhere are from this machine's.

    Args:
        there: ``{kernels: scores}`` as ``onboard.outputs`` gives them.

    Returns:
        ``backend_here, backend_there``, and for each kernel family what ``differences`` tells.
    """
    rows: dict[str, Any] = {"backend_here": backend_version("litert"), "backend_there": backend_there}
    return {**rows, **differences(onboard.outputs(path, images, backend="litert", threads=1), there)}


def differences(here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """For each kernel family ``images, max_difference, unit, decisions_changed`` between two lists of stored scores.

    The unit is ``LSB``, steps of the output, for a quantised model, and ``score`` for a float one.
    """
    rows = {}
    for kernels, ours in here.items():
        a, b = np.array(ours, dtype=np.float64), np.array(there[kernels], dtype=np.float64)
        rows[kernels] = {
            "images": len(a),
            "max_difference": float(np.abs(a - b).max(initial=0.0)),
            "unit": "LSB" if all(isinstance(score, int) for row in ours for score in row) else "score",
            "decisions_changed": int((a.argmax(axis=1) != b.argmax(axis=1)).sum()),
        }
    return rows


def record_of(
    found: Sequence[Found], *, target: str, memory_reason: str | None, command: str | None, **rest: Any
) -> dict[str, Any]:
    """The record of the first model, compared with the second if there is one.

    Args:
        memory_reason: why there is no peak memory; None where there is.
        rest: ``emulator``, ``reason`` (why no instructions), ``threads``, and what else the record should hold.
    """
    first = found[0]
    model = read_model(first.path)
    counted = first.instructions()
    extra = {} if len(found) < 2 else _comparison(first, found[1])
    return record.emulated(
        first.path,
        model,
        target=target,
        instructions=counted.pop("instructions"),
        backend="litert",
        memory={
            "model_bytes": len(model),
            "arena_bytes": None,
            "arena_bytes_reason": _ARENA,
            "peak_rss_bytes": first.peak_rss_bytes,
            "peak_rss_bytes_reason": memory_reason,
        },
        operators=dict(count_operators(check_model(model))),
        parity=first.parity,
        **{"environment": environment(command=command), **rest, **counted, **extra},
    )


def _comparison(first: Found, second: Found) -> dict[str, Any]:
    other = {
        "model": str(second.path),
        "model_bytes": len(read_model(second.path)),
        "parity": second.parity,
        "peak_rss_bytes": second.peak_rss_bytes,
        **second.instructions(),
    }
    if not first.counts:
        return {"other": other}
    low, high = min(first.counts) / max(second.counts), max(first.counts) / min(second.counts)
    value = float(np.median(first.counts) / np.median(second.counts))
    verdict = "fewer" if high < 1 else "more" if low > 1 else "equal" if low == high else "undecided"
    return {"ratio": {"value": value, "low": low, "high": high}, "verdict": verdict, "other": other}

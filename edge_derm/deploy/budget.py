"""Does a release fit a board, told before anything is sent: disk, memory, and the time and memory of an inference.

Time comes from a ``bench`` record of this very model on such a board where one is given (measured), else from what the board itself
measured in the self-test of the release it runs, by multiply-accumulates (counted). A board's first release without a record is
judged by its self-test there, before the switch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

from edge_derm.deploy.release import Options
from edge_derm.errors import DataError, TargetError

_LEAST_MEMORY = 300_000_000
_UNPACKED = 4  # a compressed byte becomes about three on disk, and is kept itself
SPREAD = 2.0  # how far two models' time for a multiply-accumulate may be apart: a counted figure within it is no refusal


def check_room(board: Mapping[str, Any], missing_bytes: int, target: str) -> None:
    """Refuse before anything is sent. Raises TargetError ``board-space``, ``board-memory``."""
    needed = _UNPACKED * missing_bytes + 50_000_000
    if board["free_bytes"] < needed:
        raise TargetError(
            f"{target}: expected {needed:,} free bytes for the release, got {board['free_bytes']:,}: make room, or give --root on "
            "another disk",
            code="board-space",
        )
    if (board["available_bytes"] or _LEAST_MEMORY) < _LEAST_MEMORY:
        raise TargetError(
            f"{target}: expected {_LEAST_MEMORY:,} bytes of free memory, got {board['available_bytes']:,}: stop other programs",
            code="board-memory",
        )


def expect(release: Mapping[str, Any], board: Mapping[str, Any], measured: Path | None) -> dict[str, Any]:
    """``{latency_ms, memory_mb, source}`` of an inference there; ``source`` is measured, counted, or None with None figures.

    Raises:
        DataError: ``budget-record``: ``measured`` is no record of a time of this model.
    """
    if measured is not None:
        return _of_record(measured, release["bundle"]["model.tflite"])
    known = board.get("measured") or {}
    if not known.get("macs") or not known.get("latency_ms"):
        return {"latency_ms": None, "memory_mb": None, "source": None}
    latency_ms = known["latency_ms"] * release["macs"] / known["macs"]
    return {"latency_ms": latency_ms, "memory_mb": known["memory_mb"], "source": "counted"}


def check(expected: Mapping[str, Any], options: Options, target: str) -> None:
    """Refuse what cannot keep its budget. Raises TargetError ``budget-latency``, ``budget-memory``."""
    margin = SPREAD if expected["source"] == "counted" else 1.0
    for name, unit in (("latency", "ms"), ("memory", "mb")):
        got, limit = expected[f"{name}_{unit}"], getattr(options, f"{name}_{unit}")
        if got is not None and limit is not None and got > margin * limit:
            why = (
                "from this board's last self-test and the models' multiply-accumulates"
                if expected["source"] == "counted"
                else "measured by bench"
            )
            raise TargetError(
                f"{target}: expected at most {limit:g} {unit} for an inference, got {got:.3g} ({why}): use a smaller model, or "
                "allow more",
                code=f"budget-{name}",
            )


def _of_record(path: Path, digest: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
        same, latency = found["model_sha256"] == digest, found["latency_ms"]
        peak = found["memory"]["peak_rss_bytes"]
        figures = {"latency_ms": float(latency["p50"]), "memory_mb": None if peak is None else peak / 2**20}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected the record of 'edge-derm bench BUNDLE --target ssh://… --json {path.name}' with a time in it, got "
            "something else: an emulated target has none",
            code="budget-record",
        ) from error
    if not same:
        raise DataError(
            f"{path}: expected a record of this bundle's model, got one of another: measure this one",
            code="budget-record",
        )
    return {**figures, "source": "measured"}

"""The bench record: two ways to make one, neither of which can lie about time.

``measured`` wants a latency; ``emulated`` has no argument for one. The shape is ``bench.schema.json`` beside this file
(schema 1); ``check`` holds a record to its central rule without the jsonschema package, which a board does not have.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, Mapping

from edge_derm.errors import TargetError

SCHEMA = 1
NOT_TIME = "emulated time is not time: instructions are counted instead"
ON_HARDWARE = "not counted on real hardware"
NO_COMPARISON: Mapping[str, Any] = {"ratio": None, "ratio_of": None, "verdict": None, "other": None}
_TIME = re.compile("_(ns|us|ms|seconds)$")


def measured(
    path: Path, model: bytes, *, target: str, latency_ms: Mapping[str, Any], **rest: Any
) -> dict[str, Any]:
    """The record of a real machine.

    Args:
        latency_ms: as ``benchmark.Latency.record`` gives it.
        rest: ``memory``, ``environment``, and what else there is: ``backend, threads, operators, profile, soak, parity``,
            a comparison (``ratio, verdict, other``), keys of the target's own.
    """
    compared = {"ratio_of": "latency_ms"} if rest.get("ratio") else {}
    return {
        **_head(path, model, target),
        "emulated": False,
        "latency_ms": dict(latency_ms),
        "latency_ms_reason": None,
        "instructions": None,
        "instructions_reason": ON_HARDWARE,
        **_optional(),
        **rest,
        **compared,
    }


def emulated(
    path: Path, model: bytes, *, target: str, instructions: int | None, reason: str | None = None, **rest: Any
) -> dict[str, Any]:
    """The record of an emulator: instructions, and no time anywhere.

    Args:
        instructions: of one inference; None only with a ``reason``.
        rest: as for ``measured``; a comparison's ``ratio`` is of instructions.

    Raises:
        TargetError: as ``check``.
    """
    compared = {"ratio_of": "instructions"} if rest.get("ratio") else {}
    return check(
        {
            **_head(path, model, target),
            **_optional(),
            **rest,
            **compared,
            "emulated": True,
            "latency_ms": None,
            "latency_ms_reason": NOT_TIME,
            "instructions": instructions,
            "instructions_reason": reason,
        }
    )


def check(record: dict[str, Any]) -> dict[str, Any]:
    """``record`` itself, if it keeps the rule: no time where emulated, a latency where not, a reason for what is missing.

    Raises:
        TargetError: ``record-schema``, ``record-emulated-time``, ``record-latency``, ``record-reason``.
    """
    if record.get("record") != "bench" or record.get("schema") != SCHEMA:
        raise _refuse(
            f"a bench record of schema {SCHEMA}",
            f"{record.get('record')} of {record.get('schema')}",
            "record-schema",
        )
    if record["emulated"]:
        timed = _times(record, "")
        if timed or not record.get("latency_ms_reason"):
            found = timed[0] if timed else "no latency_ms_reason"
            raise _refuse("no time in an emulated record, and the reason", found, "record-emulated-time")
    elif not record["latency_ms"]:
        raise _refuse("latency_ms from a real machine", "none", "record-latency")
    if record["instructions"] is None and not record.get("instructions_reason"):
        raise _refuse("instructions, or why there are none", "neither", "record-reason")
    return record


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the record."""
    text = resources.files("edge_derm.measure").joinpath("bench.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _head(path: Path, model: bytes, target: str) -> dict[str, Any]:
    return {
        "record": "bench",
        "schema": SCHEMA,
        "model": str(path),
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "target": target,
    }


def _optional() -> dict[str, Any]:
    keys = ("backend", "threads", "operators", "profile", "soak", "parity")
    return {**{key: None for key in keys}, **NO_COMPARISON}


def _times(value: Any, where: str) -> list[str]:
    """The paths of all values that a key calls a time."""
    if isinstance(value, Mapping):
        own = [f"{where}{key}" for key, item in value.items() if _TIME.search(str(key)) and item is not None]
        return own + [name for key, item in value.items() for name in _times(item, f"{where}{key}.")]
    if isinstance(value, (list, tuple)):
        return [name for i, item in enumerate(value) for name in _times(item, f"{where}{i}.")]
    return []


def _refuse(expected: str, got: str, code: str) -> TargetError:
    return TargetError(
        f"bench record: expected {expected}, got {got}: the target that made it is at fault", code=code
    )

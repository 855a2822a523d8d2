"""The places a model can be measured: one seam, a module a kind, loaded only when asked for.

A module of a kind has ``targets() -> list[Target]``, and where its targets cannot be listed (any host may be one)
also ``find(name) -> Target``. Add a kind by adding its row to ``KINDS``; a name is its kind alone, or kind, colon, the rest.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from edge_derm.errors import TargetError
from edge_derm.measure import record

KINDS = {
    "local": "edge_derm.measure.local",
    "qemu": "edge_derm.measure.qemu",
    "ssh": "edge_derm.measure.ssh",
    "board": "edge_derm.measure.board",
    "mcu": "edge_derm.measure.mcu",
}


@dataclass(frozen=True)
class Target:
    """One place to run: ``ready()`` says whether it can now, and else the exact command that would make it so."""

    name: str
    kind: str
    ready: Callable[[], tuple[bool, str | None]]
    bench: Callable[
        ..., dict[str, Any]
    ]  # (path, *, compare, runs, backend, threads, command) -> bench record
    prepare: Callable[[], None] | None = None  # None: nothing to prepare

    def row(self) -> dict[str, Any]:
        """``{name, kind, ready, missing}``; ``missing`` is null where nothing is."""
        ready, missing = self.ready()
        return {"name": self.name, "kind": self.kind, "ready": ready, "missing": missing}


def list_targets() -> list[Target]:
    """Every target of every kind, in the order of ``KINDS``."""
    return [target for module in KINDS.values() for target in importlib.import_module(module).targets()]


def find_target(name: str) -> Target:
    """The target called ``name``; of the kinds' modules only its own is loaded.

    Raises:
        TargetError: ``target-unknown``, which lists the targets there are; what a kind's ``find`` refuses.
    """
    module = KINDS.get(name.split(":")[0])
    if module is not None and hasattr(importlib.import_module(module), "find"):
        return importlib.import_module(module).find(name)
    found = list_targets() if module is None else importlib.import_module(module).targets()
    known = {target.name: target for target in found}
    if name not in known:
        raise TargetError(
            f"target: expected one of {', '.join(known)}, got {name!r}: 'edge-derm targets' lists them",
            code="target-unknown",
        )
    return known[name]


def bench(path: Path, *, target: str = "local", **options: Any) -> dict[str, Any]:
    """Measure on ``target``; the record it returns is checked (``record.check``).

    Args:
        options: what the target's ``bench`` takes; one that is off (None or False) is not handed on.

    Raises:
        TargetError: ``target-not-ready``, with the command that would make it ready; ``target-option``: asked for something
            this target cannot do; what the target and ``record.check`` refuse.
    """
    found = find_target(target)
    ready, missing = found.ready()
    if not ready:
        raise TargetError(
            f"{target}: expected a target that is ready, got one with parts missing: run '{missing}'",
            code="target-not-ready",
        )
    return record.check(found.bench(path, **_wanted(found, options)))


def _wanted(target: Target, options: dict[str, Any]) -> dict[str, Any]:
    """The options that are on, if the target's ``bench`` takes them all."""
    wanted = {name: value for name, value in options.items() if value is not None and value is not False}
    takes = inspect.signature(target.bench).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
        return wanted
    refused = sorted(set(wanted) - {parameter.name for parameter in takes})
    if refused:
        raise TargetError(
            f"{target.name}: expected options that this target has, got {', '.join(refused)}: leave them out, "
            "or measure on another target",
            code="target-option",
        )
    return wanted

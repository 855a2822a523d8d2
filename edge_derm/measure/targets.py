"""The places a model can be measured: one seam, a module a kind, loaded only when asked for.

A module of a kind has one function, ``targets() -> list[Target]``. Add a kind by adding its row to ``KINDS``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from edge_derm.errors import TargetError

KINDS = {"local": "edge_derm.measure.local"}


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
    """The target called ``name``. Raises TargetError ``target-unknown``, which lists the targets there are."""
    known = {target.name: target for target in list_targets()}
    if name not in known:
        raise TargetError(
            f"target: expected one of {', '.join(known)}, got {name!r}: 'edge-derm targets' lists them",
            code="target-unknown",
        )
    return known[name]


def bench(path: Path, *, target: str = "local", **options: Any) -> dict[str, Any]:
    """Measure on ``target``. Raises TargetError ``target-not-ready`` with the command that would make it ready."""
    found = find_target(target)
    ready, missing = found.ready()
    if not ready:
        raise TargetError(
            f"{target}: expected a target that is ready, got one with parts missing: run '{missing}'",
            code="target-not-ready",
        )
    return found.bench(path, **options)

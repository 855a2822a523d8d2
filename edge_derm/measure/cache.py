"""Where prepared things live between runs: one folder a recipe under the user's cache, made whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Iterator, Sequence

from edge_derm import files
from edge_derm.errors import TargetError


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/edge-derm``, by default ``~/.cache/edge-derm`` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edge-derm"


def recipe_folder(name: str, recipe: Any) -> Path:
    """The folder of what ``recipe`` makes: another recipe, another folder, so nothing stale is ever used.

    Args:
        name: what a person sees, ``arm64-tree``.
        recipe: JSON values that decide the contents: versions, package names, sources.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / f"{name}-{digest}"


def holds(folder: Path, parts: Sequence[str]) -> bool:
    """Whether everything that belongs into ``folder`` is there."""
    return all((folder / part).exists() for part in parts)


@contextlib.contextmanager
def making(folder: Path, parts: Sequence[str], *, room_bytes: int = 0) -> Iterator[Path | None]:
    """A fresh folder that becomes ``folder`` on success, or None where all ``parts`` are in it already.

    One process makes at a time, so that nobody swaps what another has just begun to use; what a killed one left is removed.

    Args:
        room_bytes: what the making takes at its fullest.

    Raises:
        TargetError: ``cache-space``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if holds(folder, parts):
            yield None
            return
        for left in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        if free < room_bytes:
            raise TargetError(
                f"{folder.parent}: expected {room_bytes:,} free bytes, got {free:,}: make room there, or name another place: "
                "XDG_CACHE_HOME=…",
                code="cache-space",
            )
        with files.replace_folder(folder) as fresh:
            yield fresh

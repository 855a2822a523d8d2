"""Where prepared things live between runs: one folder a recipe under the user's cache, made whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


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

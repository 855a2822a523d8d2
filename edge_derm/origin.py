"""Where a model came from: its run, the command that made it, and whether another one is its parent."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Sequence

from . import __version__
from .bundle import Provenance
from .errors import BundleError


def provenance_of(source: Path, run: dict[str, Any]) -> Provenance:
    """Where a model came from, for the manifest."""
    data = run.get("data") or {}
    return Provenance(
        source=source.name,
        data_digest=data.get("digest"),
        split=data.get("split"),
        seed=run.get("seed"),
        versions=run.get("versions") or {"edge_derm": __version__},
        command=command_line(),
    )


def command_line(*, folders: bool = True) -> str:
    """The command as typed, without the folder of the program.

    Args:
        folders: False: every path by its last part (``small=/home/me/runs/d1`` → ``small=d1``), for records that are published.
    """
    words = sys.argv[1:] if folders else [re.sub(r"(^|=)/(?:[^/=]+/)*", r"\1", word) for word in sys.argv[1:]]
    return " ".join([Path(sys.argv[0]).name, *words])


def check_same_labels(parent: Sequence[str], deployed: Sequence[str], where: Path) -> None:
    """A parent is one only if it knows the same classes in the same order."""
    if tuple(parent) != tuple(deployed):
        raise BundleError(
            f"{where}: expected the labels {', '.join(deployed)}, got {', '.join(parent)}: "
            "give the run this bundle was exported from",
            code="labels-differ",
        )

"""``sbom``: the list of what a bundle's releases are made of, written into the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.deploy import release, sbom
from edge_derm.errors import DataError

_LIBC = {
    (3, 10): "2.35",
    (3, 11): "2.36",
    (3, 12): "2.39",
    (3, 13): "2.41",
}  # of the systems with that Python
_MACHINES = ("aarch64", "x86_64")


def attach(path: Path, boards: Sequence[str]) -> dict[str, Any]:
    """Write ``sbom.cdx.json`` into a bundle for boards such as ``3.11-aarch64``; returns the command's record.

    Raises:
        DataError: ``board-kind``. TargetError: ``wheels-network``. BundleError: of the bundle.
    """
    bundle = open_bundle(path, trust={})
    signed = (bundle.path / "signature.json").exists()
    everything = release.Options(trust=True)
    packages: dict[str, bytes | Path] = {}
    for board in boards:
        packages |= release.packages(everything, board_kind(board))
    made = sbom.document(bundle, packages)
    update_bundle(bundle, parts={sbom.NAME: (sbom.ROLE, sbom.dumps(made))})
    return {
        "record": "sbom",
        "bundle": str(path),
        "boards": list(boards),
        "packages": len(packages),
        "serial": made["serialNumber"],
        "signature_removed": signed,
    }


def board_kind(text: str) -> dict[str, Any]:
    """What ``release.resolve`` must know of a board named ``PYTHON-MACHINE``. Raises DataError ``board-kind``."""
    python, _, machine = text.partition("-")
    libc = _LIBC.get(tuple(int(part) for part in python.split(".") if part.isdigit()))  # type: ignore[arg-type]
    if libc is None or machine not in _MACHINES:
        raise DataError(
            f"--board: expected a Python from 3.10 to 3.13 and {' or '.join(_MACHINES)}, as in 3.11-aarch64, got {text!r}",
            code="board-kind",
        )
    return {"python": [int(part) for part in python.split(".")], "machine": machine, "libc": ["glibc", libc]}

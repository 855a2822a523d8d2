"""Python packages for arm64 Linux, installed by pip into a folder on any machine: wheels only, nothing is built or run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Sequence

from edge_derm.errors import TargetError
from edge_derm.measure import process

PYTHON = "3.11"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_ELF, _MACHINE_AT, _AARCH64 = b"\x7fELF", 18, 183


def install(requirements: Sequence[str], folder: Path, *, python: str = PYTHON) -> None:
    """Install ``requirements`` with their dependencies for CPython ``python`` on arm64 into ``folder``.

    Raises:
        TargetError: ``wheels-network`` (pip's own words), ``wheels-machine`` (a library for another processor).
    """
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--target",
        folder,
    ]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    try:
        process.run([*command, *requirements], what="pip install for arm64", timeout_s=900)
    except TargetError as error:
        if error.code != "process-failed":
            raise
        raise TargetError(
            f"{error}: the network is needed once, and pip beside {sys.executable}", code="wheels-network"
        ) from None
    for library in folder.rglob("*.so*"):
        check_machine(library)


def check_machine(library: Path) -> None:
    """Refuse a shared library that is not for arm64 (ELF ``e_machine`` 183). Raises TargetError ``wheels-machine``."""
    with library.open("rb") as stream:
        head = stream.read(_MACHINE_AT + 2)
    machine = int.from_bytes(head[_MACHINE_AT:], "little")
    if head[:4] != _ELF or machine != _AARCH64:
        raise TargetError(
            f"{library.name}: expected a library for arm64 (ELF machine {_AARCH64}), got {machine}: remove the cache "
            "and prepare again",
            code="wheels-machine",
        )

"""Debian's packages for another architecture, downloaded and unpacked into a folder by an ordinary user on any Debian or Ubuntu.

apt works in a folder of its own with an empty package status, so it resolves every dependency and touches nothing of this
machine; signatures are checked with Debian's archive keyring as always. Nothing of the packages is executed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Sequence

from edge_derm.errors import TargetError
from edge_derm.measure import process

SUITE = "bookworm"  # its point releases; nothing of it is ever reachable from outside this machine
MIRROR, MIRROR_VARIABLE = "http://deb.debian.org/debian", "EDGE_DERM_DEBIAN"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_CONFIGURATION = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::State "{work}/state";
Dir::State::Lists "{work}/lists";
Dir::State::status "{work}/status";
Dir::Cache "{work}/cache";
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


def download(packages: Sequence[str], work: Path, *, architecture: str = "arm64") -> list[Path]:
    """The .deb files of ``packages`` and everything they depend on, left in the folder ``work``.

    Environment: ``EDGE_DERM_DEBIAN`` names another mirror than http://deb.debian.org/debian.

    Raises:
        TargetError: ``debian-tools``, ``debian-network``, and those of ``process.run``.
    """
    if not KEYRING.is_file():
        raise TargetError(
            f"{KEYRING}: expected Debian's archive keyring, found none: run "
            "'sudo apt-get install debian-archive-keyring' (Debian or Ubuntu is needed to prepare this)",
            code="debian-tools",
        )
    for name in ("state", "lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "status").touch()
    mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/") or MIRROR
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n", encoding="utf-8")
    (work / "apt.conf").write_text(
        _CONFIGURATION.format(work=work, architecture=architecture), encoding="utf-8"
    )
    _apt(work, "update", "--error-on=any")
    _apt(work, "install", "--download-only", *packages)
    return sorted((work / "cache/archives").glob("*.deb"))


def unpack(archives: Sequence[Path], tree: Path) -> None:
    """Unpack .deb files over one another into ``tree``, whose ``/bin``, ``/lib`` and ``/sbin`` lead into ``/usr``."""
    for name in ("bin", "lib", "sbin"):
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")
    for archive in archives:
        files = process.run(["dpkg-deb", "--fsys-tarfile", archive], what=archive.name, timeout_s=300)
        command: list[str | Path] = [
            "tar",
            "--extract",
            "--keep-directory-symlink",
            "--no-same-owner",
            "--directory",
            tree,
        ]
        process.run(command, what=archive.name, timeout_s=300, stdin=files)


def _apt(work: Path, *words: str) -> None:
    environment = {
        **os.environ,
        "APT_CONFIG": str(work / "apt.conf"),
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C",
    }
    try:
        process.run(
            ["apt-get", "-q", *words], what=f"apt-get {words[0]}", timeout_s=900, environment=environment
        )
    except TargetError as error:
        if error.code != "process-failed":
            raise
        raise TargetError(
            f"Debian's packages: {error}: the network is needed once (EDGE_DERM_DEBIAN=URL names another mirror)",
            code="debian-network",
        ) from None

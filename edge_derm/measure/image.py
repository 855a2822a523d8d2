"""A whole Debian arm64 board as files in the cache: kernel, initramfs, disk, and the keys that open it.

Built by an ordinary user in about two minutes: packages are unpacked (``debian``), made a system (``system``), and put on an
ext4 file system by ``mke2fs -d``, which needs no mounts. Python packages come from aarch64 wheels.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from edge_derm import files
from edge_derm.errors import TargetError
from edge_derm.measure import cache, debian, initramfs, process, system, wheels

PACKAGES = tuple("""
    base-files base-passwd bash busybox-static coreutils dash dbus debianutils diffutils findutils grep gzip hostname init
    iproute2 kmod libc-bin libpam-modules libpam-runtime libpam-systemd libstdc++6 linux-image-cloud-arm64 login mawk mount
    ncurses-base netbase openssh-server passwd procps python3 python3-venv sed sudo systemd systemd-sysv tar udev util-linux
    zlib1g
    """.split())
WHEELS = (
    "ai-edge-litert==2.3.0",
    "numpy==2.4.6",
    "opencv-python-headless==5.0.0.93",
    "flatbuffers>=24.3,<26",
    "click>=8.1,<9",
)
VERSION = 1
DISK_BYTES = 3 << 30  # sparse
ROOM_BYTES = 1_500_000_000  # packages, the tree of them, and the disk made of that
PARTS = ("kernel", "initramfs", "disk", "key", "known_hosts")
TO_RUN = ("qemu-system-aarch64", "ssh")  # the others are needed to build it
TOOLS = (
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("mke2fs", "e2fsprogs"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
)
_SITE = f"usr/local/lib/python{wheels.PYTHON}/dist-packages"
_UNNEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/i18n", "usr/share/info")


def folder() -> Path:
    """Where the board's files (``PARTS``) are, or will be once prepared."""
    sources = [Path(str(module.__file__)).read_text("utf-8") for module in (system, initramfs)]
    return cache.recipe_folder(
        "board", [VERSION, debian.SUITE, PACKAGES, WHEELS, wheels.PYTHON, DISK_BYTES, *sources]
    )


def missing() -> str | None:
    """The command for what this machine lacks, or None."""
    prepared = cache.holds(folder(), PARTS)
    lacking = [package for tool, package in TOOLS if which(tool) is None and (tool in TO_RUN or not prepared)]
    packages = list(dict.fromkeys(lacking))
    install = ["sudo apt-get install --no-install-recommends " + " ".join(packages)] if packages else []
    return " && ".join(install + ([] if prepared else ["edge-derm targets --prepare board:virt-a72"])) or None


def prepare() -> None:
    """Build the board (about 150 MB to download, 900 MB on disk) unless it is there; it appears whole or not at all.

    Raises:
        TargetError: ``board-tools``, and those of ``cache``, ``debian``, ``wheels``, ``initramfs`` and ``process``.
    """
    if cache.holds(folder(), PARTS):
        return
    for tool, package in TOOLS:
        if which(tool) is None:
            raise TargetError(
                f"board: expected the program {tool}, found none: run 'sudo apt-get install {package}' (Debian or Ubuntu)",
                code="board-tools",
            )
    with cache.making(folder(), PARTS, room_bytes=ROOM_BYTES) as fresh:
        if fresh is not None:
            _build(fresh)


def _build(fresh: Path) -> None:
    with tempfile.TemporaryDirectory(dir=fresh) as work:
        tree = Path(work) / "tree"
        debian.unpack(debian.download(PACKAGES, Path(work) / "apt"), tree)
        for name in _UNNEEDED:
            shutil.rmtree(tree / name, ignore_errors=True)
        wheels.install(WHEELS, tree / _SITE)
        precompile(tree)
        make_keys(fresh)
        system.configure(tree, host_key=fresh / "host_key", client_key=fresh / "key")
        take_kernel(tree, fresh)
        make_disk(tree, fresh / "disk")


def precompile(tree: Path) -> None:
    """Compile the board's Python modules here, where this Python writes the same bytecode; else the board does each time."""
    if (
        f"{sys.version_info.major}.{sys.version_info.minor}" != wheels.PYTHON
        or sys.implementation.name != "cpython"
    ):
        return
    for folder_ in (_SITE, f"usr/lib/python{wheels.PYTHON}"):
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "unchecked-hash",
        ]
        # A few modules of test suites are not meant to compile: its status does not matter.
        with contextlib.suppress(TargetError):
            process.run([*command, "-s", tree, "-p", "/", tree / folder_], what="compileall", timeout_s=600)


def make_keys(goal: Path) -> None:
    """``key`` and ``host_key`` (ed25519, without a passphrase, for this cache only) and ``known_hosts`` for the board's name."""
    for name in ("key", "host_key"):
        command: list[str | Path] = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "edge-derm emulated board",
            "-f",
            goal / name,
        ]
        process.run(command, what="ssh-keygen", timeout_s=60)
    files.write_text(goal / "known_hosts", f"{system.HOST} {(goal / 'host_key.pub').read_text('utf-8')}")


def take_kernel(tree: Path, goal: Path) -> None:
    """Move the kernel out of ``tree`` and make its initramfs."""
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    release = kernel.name.partition("-")[2]
    (goal / "initramfs").write_bytes(initramfs.make(tree, release))
    shutil.move(kernel, goal / "kernel")
    shutil.rmtree(tree / "boot")


def make_disk(tree: Path, disk: Path) -> None:
    """An ext4 image of ``tree`` in which every file is root's, whoever builds it."""
    own = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    command: list[str | Path] = [
        *own,
        which("mke2fs") or "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-L",
        "board",
        "-d",
        tree,
        "-E",
        "root_owner=0:0",
    ]
    process.run([*command, disk, f"{DISK_BYTES >> 10}k"], what="disk of the board", timeout_s=600)


def which(tool: str) -> str | None:
    """The program, looked for also where Debian keeps those of the administrator."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")

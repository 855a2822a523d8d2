"""An arm64 Python in the cache: Debian's interpreter and libraries, aarch64 wheels, and the instruction counter.

It is run by QEMU's user-mode emulation with ``-L``: no root, no chroot, no binfmt_misc. Nothing in it is Debian's
configured system; it is what the interpreter needs to start.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Sequence

import edge_derm
import firmware_bridge
from edge_derm import files
from edge_derm.errors import TargetError
from edge_derm.measure import cache, debian, process, wheels

EMULATOR = "qemu-aarch64"
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "zlib1g")
# LiteRT 2.2 and 2.3 crash under qemu-user 7.2 of Debian 12 while the interpreter is made; 2.1.6 runs.
WHEELS = (
    "ai-edge-litert==2.1.6",
    "numpy==2.4.6",
    "opencv-python-headless==5.0.0.93",
    "flatbuffers>=24.3,<26",
    "click>=8.1,<9",
)
TOOLS = (
    (EMULATOR, "qemu-user"),
    ("gcc", "gcc libc6-dev"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
)  # program, package
PARTS = ("root", "site", "count.so")
ROOM_BYTES = 500_000_000  # packages, and the tree of them
COUNTER = Path(__file__).with_name("count.c")


def folder() -> Path:
    """Where the tree is, or will be once prepared."""
    return cache.recipe_folder(
        "arm64-tree", [debian.SUITE, PACKAGES, WHEELS, wheels.PYTHON, COUNTER.read_text("ascii")]
    )


def missing() -> str | None:
    """The command for what this machine lacks, or None: emulator first, then the tree."""
    prepared = cache.holds(folder(), PARTS)
    needed = TOOLS[:1] if prepared else TOOLS
    packages = [package for tool, package in needed if shutil.which(tool) is None]
    install = ["sudo apt-get install --no-install-recommends " + " ".join(packages)] if packages else []
    return (
        " && ".join(install + ([] if prepared else ["edge-derm targets --prepare qemu:cortex-a72"])) or None
    )


def prepare() -> None:
    """Build the tree (about 60 MB to download, 300 MB on disk) unless it is there; it appears whole or not at all.

    Raises:
        TargetError: those of ``cache``, ``debian``, ``wheels`` and ``process``.
    """
    if cache.holds(folder(), PARTS):
        return
    for tool, package in TOOLS:
        if shutil.which(tool) is None:
            raise TargetError(
                f"arm64 tree: expected the program {tool}, found none: run 'sudo apt-get install {package}' (Debian or Ubuntu)",
                code="arm64-tools",
            )
    check_emulator()
    with cache.making(folder(), PARTS, room_bytes=ROOM_BYTES) as fresh:
        if fresh is not None:
            _build(fresh)


def _build(fresh: Path) -> None:
    with tempfile.TemporaryDirectory(dir=fresh) as work:
        debian.unpack(debian.download(PACKAGES, Path(work)), fresh / "root")
    for name in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(fresh / "root" / name, ignore_errors=True)
    wheels.install(WHEELS, fresh / "site")
    compile_counter(fresh / "count.so")
    run(
        fresh,
        "cortex-a72",
        ["-c", "import cv2, edge_derm.measure.onboard, ai_edge_litert.interpreter"],
        compile=True,
    )


def check_emulator() -> None:
    """Refuse an emulator that cannot count. Raises TargetError ``arm64-emulator``.

    Plugins of API version 1 are loaded by QEMU 4.2 to 8.x; some builds (Debian 13's, linked statically) load none.
    """
    known = process.run([EMULATOR, "--help"], what=EMULATOR, timeout_s=30)
    version = emulator_version()
    major = re.search(r"version (\d+)\.", version)
    if b"-plugin" not in known or major is None or int(major[1]) not in range(4, 9):
        raise TargetError(
            f"{EMULATOR}: expected QEMU 4.2 to 8.x with plugins, as Debian 12's qemu-user 7.2 has them, got {version!r}: install "
            "that one, or use board:virt-a72, which counts without a plugin",
            code="arm64-emulator",
        )


def compile_counter(goal: Path) -> None:
    """The instruction counter as a plugin for this machine's QEMU."""
    command: list[str | Path] = [
        "gcc",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        goal,
        COUNTER,
    ]
    process.run(command, what="instruction counter", timeout_s=120)


def run(
    tree: Path,
    cpu: str,
    arguments: Sequence[str | Path],
    *,
    counts: Path | None = None,
    compile: bool = False,
    timeout_s: float = 900,
) -> bytes:
    """Standard output of the tree's Python with ``arguments`` on an emulated ``cpu``, this package importable.

    Args:
        counts: where the instruction counter writes one line for each mark of the guest.
        compile: let Python keep compiled modules in the tree.

    Raises:
        TargetError: those of ``process.run``.
    """
    plugin = [] if counts is None else ["-plugin", f"{tree}/count.so,out={counts}"]
    with tempfile.TemporaryDirectory() as sources:
        for module in (edge_derm, firmware_bridge):
            (Path(sources) / module.__name__).symlink_to(Path(str(module.__file__)).parent)
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONHOME": f"{tree}/root/usr",
            "PYTHONPATH": f"{tree}/site:{sources}",
            "PYTHONHASHSEED": "0",
            **({} if compile else {"PYTHONDONTWRITEBYTECODE": "1"}),
        }
        python = tree / f"root/usr/bin/python{wheels.PYTHON}"
        return process.run(
            [EMULATOR, "-cpu", cpu, "-L", tree / "root", *plugin, python, "-S", *arguments],
            what=f"qemu:{cpu}",
            timeout_s=timeout_s,
            environment=environment,
        )


def emulator_version() -> str:
    """QEMU's own first line, ``qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)``."""
    return process.run([EMULATOR, "--version"], what=EMULATOR, timeout_s=30).decode().splitlines()[0]


def job(tree: Path, cpu: str, wanted: dict[str, Any], *, count: bool) -> tuple[dict[str, Any], list[int]]:
    """Answer of ``onboard`` to the job ``wanted`` on an emulated ``cpu``, and the counter's value at each mark."""
    with tempfile.TemporaryDirectory() as work:
        order, counts = Path(work) / "job.json", Path(work) / "counts"
        files.write_json(order, wanted)
        answer = run(tree, cpu, ["-m", "edge_derm.measure.onboard", order], counts=counts if count else None)
        marks = [int(line) for line in counts.read_text("ascii").split()] if count else []
    return json.loads(answer), marks

"""Targets ``qemu:cortex-…``: one arm64 core under QEMU's user-mode emulation. Instructions and parity; never a latency.

An instruction count compares two models on one instruction set. It is not a time: cores of one instruction set
(Cortex-A53 and A72) execute the same instructions at different speeds.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_derm.errors import TargetError
from edge_derm.measure import arm64, emulated
from edge_derm.measure.emulated import INFERENCES, MARKS, Found
from edge_derm.measure.models import read_model
from edge_derm.measure.targets import Target

CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
NO_MEMORY = "user-mode emulation: the emulator's own memory cannot be told from the program's"


def targets() -> list[Target]:
    """One target a core; they share one tree."""
    return [Target(f"qemu:{cpu}", "qemu", _ready, partial(bench, cpu), arm64.prepare) for cpu in CORES]


def _ready() -> tuple[bool, str | None]:
    missing = arm64.missing()
    return missing is None, missing


def bench(
    cpu: str,
    path: Path,
    *,
    compare: Path | None = None,
    runs: int = INFERENCES,
    backend: str = "litert",
    threads: int = 1,
    command: str | None = None,
) -> dict[str, Any]:
    """Instructions of ``predict`` on one preprocessed image, and the outputs against this machine's, on both kernel families.

    Args:
        cpu: one of ``CORES``.
        path: a bundle folder or a bare .tflite file.
        compare: another one, counted in the same emulated process.
        runs: not used: ``INFERENCES`` counts repeat to within a few hundred instructions.

    Returns:
        A ``bench`` record whose ``latency_ms`` is null; with ``compare`` also ``ratio`` (of instructions) and ``verdict``.

    Raises:
        TargetError: ``qemu-options``, ``qemu-counter``, ``bench-missing``, those of ``arm64.check_emulator`` and ``arm64.run``.
        BundleError, BackendError: as ``Classifier.open``.
    """
    if backend != "litert" or threads != 1:
        raise TargetError(
            f"qemu:{cpu}: expected backend litert and one thread (its counter counts one), got {backend} and {threads}",
            code="qemu-options",
        )
    paths = [path] if compare is None else [path, compare]
    for each in paths:
        read_model(each)  # verified before an emulator is started for it
    arm64.check_emulator()
    found, there = _count(cpu, paths)
    return emulated.record_of(
        found,
        target=f"qemu:{cpu}",
        memory_reason=NO_MEMORY,
        command=command,
        threads=threads,
        emulator={"version": arm64.emulator_version(), "cpu": cpu, **there},
    )


def _count(cpu: str, paths: list[Path]) -> tuple[list[Found], dict[str, Any]]:
    images = [emulated.images_for(path) for path in paths]
    with tempfile.TemporaryDirectory() as work:
        models = []
        for i, path in enumerate(paths):
            np.save(f"{work}/{i}.npy", images[i])
            models.append({"model": str(path.resolve()), "images": f"{work}/{i}.npy"})
        job = {"count": models, "inferences": INFERENCES, "backend": "litert", "threads": 1}
        answer, marks = arm64.job(arm64.folder(), cpu, job, count=True)
    if len(marks) != MARKS * len(paths):
        raise TargetError(
            f"qemu:{cpu}: expected {MARKS * len(paths)} marks of the counter, got {len(marks)}: prepare it again",
            code="qemu-counter",
        )
    found = [
        Found(
            path,
            emulated.inferences(marks[i * MARKS : (i + 1) * MARKS]),
            emulated.parity(path, images[i], answer["models"][i]["outputs"], backend_there=answer["backend"]),
        )
        for i, path in enumerate(paths)
    ]
    return found, {key: answer[key] for key in ("machine", "python", "backend")}

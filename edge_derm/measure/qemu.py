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

from edge_derm.bundle import check_model, open_bundle
from edge_derm.errors import TargetError
from edge_derm.measure import arm64, onboard, record
from edge_derm.measure.environment import environment
from edge_derm.measure.models import open_classifier, read_model
from edge_derm.measure.targets import Target
from edge_derm.runtime import golden
from edge_derm.runtime.interpreter import backend_version
from firmware_bridge.summary import count_operators

CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
INFERENCES = 10
IMAGES = 4
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
        runs: ignored beyond ``INFERENCES``: counts repeat to within a few hundred instructions.

    Returns:
        A ``bench`` record whose ``latency_ms`` is null; with ``compare`` also ``ratio`` (of instructions) and ``verdict``.

    Raises:
        TargetError: ``qemu-options``, and those of ``arm64.run``. BundleError, BackendError: as ``Classifier.open``.
    """
    if backend != "litert" or threads != 1:
        raise TargetError(
            f"qemu:{cpu}: expected backend litert and one thread (its counter counts one), got {backend} and {threads}",
            code="qemu-options",
        )
    paths = [path] if compare is None else [path, compare]
    models = [read_model(each) for each in paths]
    counted, parities, there = _count(cpu, paths)
    extra: dict[str, Any] = {}
    if compare is not None:
        extra = _compare(counted)
        extra["other"] = {
            "model": str(compare),
            "model_bytes": len(models[1]),
            **_spread(counted[1]),
            "parity": parities[1],
        }
    spread = _spread(counted[0])
    return record.emulated(
        path,
        models[0],
        target=f"qemu:{cpu}",
        instructions=spread.pop("instructions"),
        backend=backend,
        threads=threads,
        memory={
            "model_bytes": len(models[0]),
            "arena_bytes": None,
            "arena_bytes_reason": "LiteRT's Python API does not tell the size of its tensor arena",
            "peak_rss_bytes": None,
            "peak_rss_bytes_reason": NO_MEMORY,
        },
        operators=dict(count_operators(check_model(models[0]))),
        parity=parities[0],
        emulator={"version": arm64.emulator_version(), "cpu": cpu, **there},
        environment=environment(command=command),
        **spread,
        **extra,
    )


def test_images(path: Path) -> np.ndarray:
    """uint8 [N, S, S, 3]: the bundle's golden inputs, else seeded noise from flat to full contrast."""
    if path.is_dir():
        bundle = open_bundle(path)
        name = bundle.named(golden.ROLE)
        if name is not None:
            return golden.read(bundle.part(name))["inputs"][:IMAGES]
    side = open_classifier(path).size_px
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, side, side, 3))
    contrast = np.linspace(1, 0, IMAGES)[:, None, None, None]
    return (128 + (noise - 128) * contrast).astype(np.uint8)


def _count(cpu: str, paths: list[Path]) -> tuple[list[list[int]], list[dict[str, Any]], dict[str, Any]]:
    images = [test_images(path) for path in paths]
    names = [str(path.resolve()) for path in paths]
    with tempfile.TemporaryDirectory() as work:
        arrays = {}
        for i, name in enumerate(names):
            arrays[name] = f"{work}/{i}.npy"
            np.save(arrays[name], images[i])
        wanted = {
            "models": names,
            "images": arrays,
            "inferences": INFERENCES,
            "backend": "litert",
            "threads": 1,
        }
        answer, marks = arm64.job(arm64.folder(), cpu, wanted, count=True)
    each = 2 + 2 * INFERENCES
    if len(marks) != each * len(paths):
        raise TargetError(
            f"qemu:{cpu}: expected {each * len(paths)} marks of the counter, got {len(marks)}: prepare it again",
            code="qemu-counter",
        )
    counted = [inferences(marks[i * each : (i + 1) * each]) for i in range(len(paths))]
    parities = [
        parity(onboard.outputs(path, pixels), answer["models"][i]["outputs"], there=answer["backend"])
        for i, (path, pixels) in enumerate(zip(paths, images))
    ]
    return counted, parities, {key: answer[key] for key in ("machine", "python", "backend")}


def inferences(marks: list[int]) -> list[int]:
    """Instructions of each inference: differences of the paired marks, less the first pair's, which holds nothing."""
    pairs = [after - before for before, after in zip(marks[::2], marks[1::2])]
    return [pair - pairs[0] for pair in pairs[1:]]


def parity(here: dict[str, Any], there_outputs: dict[str, Any], *, there: str) -> dict[str, Any]:
    """How far the emulated core's stored scores are from this machine's, a row a kernel family.

    ``max_difference`` counts steps of the output (LSB) for a quantised one, else it is in the scores' unit.
    """
    rows: dict[str, Any] = {"backend_here": backend_version("litert"), "backend_there": there}
    for kernels, ours in here.items():
        a, b = np.array(ours, dtype=np.float64), np.array(there_outputs[kernels], dtype=np.float64)
        rows[kernels] = {
            "images": len(a),
            "max_difference": float(np.abs(a - b).max(initial=0.0)),
            "decisions_changed": int((a.argmax(axis=1) != b.argmax(axis=1)).sum()),
        }
    return rows


def _spread(counts: list[int]) -> dict[str, Any]:
    return {"instructions": int(np.median(counts)), "instructions_range": [min(counts), max(counts)]}


def _compare(counted: list[list[int]]) -> dict[str, Any]:
    first, second = counted
    low, high = min(first) / max(second), max(first) / min(second)
    verdict = "fewer" if high < 1 else "more" if low > 1 else "equal" if low == high else "undecided"
    return {
        "ratio": {"value": float(np.median(first) / np.median(second)), "low": low, "high": high},
        "verdict": verdict,
    }

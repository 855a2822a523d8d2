"""What runs on the other side, inside an emulated core or on a board: does one job and answers on standard output.

    python -m edge_derm.measure.onboard JOB.json

``{bench: {options of local.bench}, models: [path] or [path, other]}`` measures as ``local`` does.
``{count: [{model: path, images: npy file}], inferences: N, backend, threads}`` is for an emulator: outputs of every model and
marks around each inference for its instruction counter; with ``clock: true`` the marks are read from the clock instead,
which QEMU's ``-icount shift=0`` advances by one nanosecond an instruction; with ``look: true`` also memory and environment.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Callable

import numpy as np

from edge_derm.errors import EdgeDermError
from edge_derm.measure.models import open_classifier
from edge_derm.runtime.backends import KERNELS
from edge_derm.runtime.interpreter import backend_version

MARK = 0x5EEDC0DE  # count.c looks for a seek to this offset
WARMUP = 5


def outputs(path: Path, images: np.ndarray, **choices: Any) -> dict[str, list[list[float]]]:
    """Scores as the output tensor stores them, for each kernel family.

    Args:
        images: uint8 [N, S, S, 3], preprocessed.
    """
    return {
        kernels: open_classifier(path, kernels=kernels, **choices).stored(images).tolist()
        for kernels in KERNELS
    }


def mark_inferences(call: Callable[[], Any], inferences: int, mark: Callable[[], Any]) -> list[Any]:
    """Warm up, then mark before and after nothing, and before and after each call: the 2 + 2·N values of ``mark``."""
    for _ in range(WARMUP):
        call()
    marks = []
    for what in [lambda: None, *[call] * inferences]:
        marks.append(mark())
        what()
        marks.append(mark())
    return marks


def count(job: dict[str, Any]) -> dict[str, Any]:
    """For an emulator: marked inferences and the outputs of every model, and what ran them."""
    choices = {"backend": job["backend"], "threads": job["threads"]}
    handle = os.open(os.devnull, os.O_RDONLY)
    mark = time.perf_counter_ns if job.get("clock") else lambda: os.lseek(handle, MARK, os.SEEK_SET)
    results = []
    for row in job["count"]:
        path, images = unpacked(Path(row["model"])), np.load(row["images"], allow_pickle=False)
        classifier = open_classifier(path, **choices)
        marks = mark_inferences(lambda: classifier.predict(images[0]), job["inferences"], mark)
        results.append({"marks": marks, "outputs": outputs(path, images, **choices)})
        if job.get("look"):
            results[-1]["memory"] = _memory(path, **choices)
    os.close(handle)
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "backend": backend_version(job["backend"]),
        "models": results,
        "environment": _environment() if job.get("look") else None,
    }


def bench(job: dict[str, Any]) -> dict[str, Any]:
    """The record of ``local.bench`` here."""
    from edge_derm.measure import local

    paths = [unpacked(Path(name)) for name in job["models"]]
    return local.bench(paths[0], compare=paths[1] if len(paths) > 1 else None, **job["bench"])


def unpacked(path: Path) -> Path:
    """The folder of a zipped bundle; any other file as it is."""
    if path.suffix != ".zip":
        return path
    with zipfile.ZipFile(path) as archive:
        archive.extractall(path.with_suffix(".bundle"))
    return path.with_suffix(".bundle")


def main(order: Path) -> None:
    """Answer the job in the file ``order`` on standard output; an error of this package as one line on standard error."""
    job = json.loads(order.read_text("utf-8"))
    try:
        answer = bench(job) if "bench" in job else count(job)
    except EdgeDermError as error:
        sys.exit(f"edge-derm-error: {type(error).__name__} {error.code} {error}")
    print(json.dumps(answer, default=lambda value: value.tolist()))  # NumPy's own numbers


def _memory(path: Path, **choices: Any) -> dict[str, Any]:
    from edge_derm.measure.memory import peak_rss

    return peak_rss(path, **choices)


def _environment() -> dict[str, Any]:
    from edge_derm.measure.environment import environment

    return environment()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

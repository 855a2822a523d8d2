"""What runs on the other side, inside an emulated core or on a board: does one job and answers on standard output.

    python -m edge_derm.measure.onboard JOB.json

A job for the instruction counter is ``{models: [path], images: {path: npy file}, inferences: N, backend, threads}``; one for a
measurement is ``{models: [path] or [path, other], bench: {options of local.bench}}``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
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


def mark_inferences(call: Callable[[], Any], inferences: int) -> None:
    """Warm up, then mark before and after nothing, and before and after each call: 2 + 2·N marks."""
    handle = os.open(os.devnull, os.O_RDONLY)
    try:
        for _ in range(WARMUP):
            call()
        for what in [lambda: None, *[call] * inferences]:
            os.lseek(handle, MARK, os.SEEK_SET)
            what()
            os.lseek(handle, MARK, os.SEEK_SET)
    finally:
        os.close(handle)


def count(job: dict[str, Any]) -> dict[str, Any]:
    """For the instruction counter: marked inferences and the outputs of every model, and what ran them."""
    choices = {"backend": job["backend"], "threads": job["threads"]}
    results = []
    for name in job["models"]:
        path, images = Path(name), np.load(job["images"][name], allow_pickle=False)
        classifier = open_classifier(path, **choices)
        mark_inferences(lambda: classifier.predict(images[0]), job["inferences"])
        results.append({"outputs": outputs(path, images, **choices)})
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "backend": backend_version(job["backend"]),
        "models": results,
    }


def bench(job: dict[str, Any]) -> dict[str, Any]:
    """The record of ``local.bench`` here; models that came as zip files are unpacked first."""
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))

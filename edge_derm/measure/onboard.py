"""What runs on the other side, inside an emulated core: answers a job with outputs, and marks each inference for the counter.

    python -m edge_derm.measure.onboard JOB.json

The job is ``{models: [path], images: {path: npy file}, inferences: N, backend, threads}``; the answer goes to standard output.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np

from edge_derm.runtime import Classifier
from edge_derm.runtime.backends import KERNELS
from edge_derm.runtime.interpreter import backend_version

MARK = 0x5EEDC0DE  # count.c looks for a seek to this offset
WARMUP = 5


def open_classifier(path: Path, **choices: Any) -> Classifier:
    """A bundle folder or a bare .tflite as a classifier. Raises those of ``Classifier.open`` and ``Classifier.of``."""
    return Classifier.open(path, **choices) if path.is_dir() else Classifier.of(path.read_bytes(), **choices)


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


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """The answer to one job: what ran it, and the outputs of every model."""
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


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(Path(sys.argv[1]).read_text("utf-8")))))

"""What does ``Classifier.predict`` cost over LiteRT's own set_tensor / invoke / get_tensor on one image?

    python benchmarks/runtime_overhead.py BUNDLE|MODEL.tflite … [--runs N] [--threads N] [--out FILE.json]

The two are run in turn (A B B A …), ten calls at a time as a camera makes them, in one process a model on the same preprocessed
image: after a single call of the other, each finds the caches full of the other's model. The raw side gets its tensor already
encoded, so the encoding of pixels counts as overhead. Also timed: 32 images at once, as a
loop over single images and in groups of eight (``batch=8``). Ratios and differences are of a process's medians; the mean
over processes stands with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from apart import apart
from students import mean_of_each

from edge_derm import files
from edge_derm.errors import BackendError
from edge_derm.measure.models import open_classifier, read_model
from edge_derm.origin import command_line
from edge_derm.quiet import quiet_native
from edge_derm.runtime import load_engine
from edge_derm.runtime.encoding import table
from edge_derm.runtime.interpreter import backend_version

PROCESSES = 15
BLOCK = 10  # calls in a row


def raw_run(model: bytes, stored: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """The three calls everybody writes."""
    with quiet_native():
        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        interpreter.set_tensor(given, stored)
        interpreter.invoke()
        return interpreter.get_tensor(made)

    return run


def interleave(
    first: Callable[[], Any], second: Callable[[], Any], *, runs: int, block: int = BLOCK
) -> np.ndarray:
    """Durations in ms of both, [2, runs · block], in blocks of calls after 5 blocks of warm-up; the order alternates."""
    durations = np.empty((2, runs, block))
    for i in range(-5, runs):
        order = ((0, first), (1, second)) if i % 2 else ((1, second), (0, first))
        for which, call in order:
            for k in range(block):
                start = time.perf_counter_ns()
                call()
                elapsed = time.perf_counter_ns() - start
                if i >= 0:
                    durations[which, i, k] = elapsed / 1e6
    return durations.reshape(2, -1)


def compare(processes: Sequence[np.ndarray]) -> dict[str, Any]:
    """Median of the second against the first in each process, [2, runs] ms each: the mean difference in µs and ratio over processes
    with Student's 95 % interval, each, and all values."""
    medians = np.array([np.median(durations, axis=1) for durations in processes])
    return {
        "first_ms": {"p50": medians[:, 0].tolist(), "samples": [d[0].round(5).tolist() for d in processes]},
        "second_ms": {"p50": medians[:, 1].tolist(), "samples": [d[1].round(5).tolist() for d in processes]},
        "difference_us": mean_of_each((medians[:, 1] - medians[:, 0]) * 1e3),
        "ratio": mean_of_each(medians[:, 1] / medians[:, 0]),
    }


def main() -> None:
    """Measure, print the record, and write it if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    record = {
        "record": "runtime_overhead",
        "threads": asked.threads,
        "models": [pooled(path, runs=asked.runs, threads=asked.threads) for path in asked.models],
        "environment": {
            "machine": platform.machine(), "cpu": cpu_name(), "system": platform.platform(),
            "python": platform.python_version(), "numpy": np.__version__, "engine": backend_version("litert"),
            "command": f"python benchmarks/{command_line(folders=False)}",
        },
    }  # fmt: skip
    if asked.out:
        files.write_json(asked.out, record)
    for model in record["models"]:
        rows = {name: {k: v for k, v in row.items() if "_ms" not in k} for name, row in model["rows"].items()}
        json.dump(model["model"] | rows, sys.stdout, indent=2)
        print()


def pooled(path: Path, *, runs: int, threads: int) -> dict[str, Any]:
    """One model in ``PROCESSES`` processes, one after the other: where things lie in memory moves a few microseconds."""
    found = apart(PROCESSES, measure, path, runs=-(-runs // PROCESSES), threads=threads)
    model, manifest = read_model(path), open_classifier(path).manifest
    return {
        "model": {
            "sha256": hashlib.sha256(model).hexdigest(),
            "bytes": len(model),
            "size_px": manifest.input.size_px,
            "input": manifest.input.dtype,
            "calibrated": manifest.temperature is not None,
        },
        "processes": PROCESSES,
        "rows": {name: compare([rows[name] for rows in found]) for name in found[0]},
    }


def measure(path: Path, *, runs: int, threads: int) -> dict[str, np.ndarray]:
    """[2, runs] durations in ms of each row of the record."""
    model = read_model(path)
    single = open_classifier(path, threads=threads)
    manifest, side = single.manifest, single.size_px
    images = np.random.default_rng(0).integers(0, 256, (32, side, side, 3), dtype=np.uint8)
    entries = table(manifest.input, load_engine(model).inputs[0])  # of the file's own input
    stored = np.stack([entries[images[:1, ..., c], c % entries.shape[1]] for c in range(3)], axis=-1)
    raw = raw_run(model, stored, threads)
    np.testing.assert_array_equal(raw(), single.stored(images[0]))
    rows = {"predict_over_raw": interleave(raw, lambda: single.predict(images[0]), runs=-(-runs // BLOCK))}
    try:
        grouped = open_classifier(path, threads=threads, batch=8)
    except BackendError:  # a file that takes one image at a time
        return rows
    np.testing.assert_array_equal(single.stored(images), grouped.stored(images))
    rows["batch8_over_loop_32_images"] = interleave(
        lambda: single.predict(images), lambda: grouped.predict(images), runs=max(10, runs // 20), block=1
    )
    return rows


def cpu_name() -> str:
    """The processor as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()

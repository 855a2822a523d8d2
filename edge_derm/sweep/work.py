"""What a worker does with a task: the ordinary steps, in a folder of its own, finished when its last file is there.

A task may be begun any number of times: a training goes on after its last epoch, a finished one is only read; a cell is
made anew unless its ``cell.json``, written last, is there. So a killed worker costs the work under way and nothing else.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Mapping

from .. import files, judging, making, using
from ..data import open_dataset
from ..errors import DataError, ModelError, TargetError
from ..records import clean
from .cells import RUNS, Outcome, Task, failed

DONE = "cell.json"
MODEL = "model.bundle"
THREADS = "TF_NUM_INTRAOP_THREADS"
Work = Callable[[Task], Mapping[str, Any]]


def attempt(task: Task, work: Work) -> Outcome:
    """``work(task)`` with whatever it raises as an outcome; the traceback of what nobody foresaw goes to stderr."""
    started = time.monotonic()
    try:
        result = work(task)
        return Outcome(task.name, time.monotonic() - started, result=result)
    except Exception as error:
        code = getattr(error, "code", None)
        if not isinstance(code, str):
            traceback.print_exc()
            code = type(error).__name__
        return failed(task.name, code, str(error) or code, time.monotonic() - started)


def perform(task: Task) -> Mapping[str, Any]:
    """Train, or export, measure and judge; the row of the table (of a training: what its rows say about it).

    Raises:
        DataError: ``sweep-data``: other data than the sweep was started with. ModelError: ``sweep-threads``.
        What the steps raise.
    """
    use_threads(task.threads)
    check_data(task.data, task.training.seed, task.digest)
    return train(task) if task.recipe is None else cell(task)


def use_threads(threads: int) -> None:
    """Fix how many threads TensorFlow computes an operation with; it reads that once, when it begins.

    Raises:
        ModelError: ``sweep-threads``: it has begun already, with another number.
    """
    if os.environ.get(THREADS) == str(threads):
        return
    if "tensorflow" in sys.modules:
        raise ModelError(
            f"expected a worker that computes with {threads} threads, got one that has begun with "
            f"{os.environ.get(THREADS, 'another number')}: restart it",
            code="sweep-threads",
        )
    os.environ[THREADS] = str(threads)


def train(task: Task) -> Mapping[str, Any]:
    """The run, in ``runs/NAME``."""
    from ..modeling import interface

    interface.forget()
    training = task.training
    options = dict(task.options.get("train", {}))
    weights = options.pop("weights", {}).get(f"{training.alpha:g}")
    record = making.train(
        task.data,
        task.folder / task.place,
        variant=training.variant,
        alpha=training.alpha,
        size_px=training.size_px,
        seed=training.seed,
        weights=None if weights is None else Path(weights),
        **options,
    )
    return {"best_epoch": record["best_epoch"], "validation_accuracy": record["validation"]["accuracy"]}


def cell(task: Task) -> Mapping[str, Any]:
    """The bundle and its records, in ``cells/NAME``."""
    from ..modeling import interface

    folder = task.folder / task.place
    row = finished(folder)
    if row is not None:
        return row
    shutil.rmtree(folder, ignore_errors=True)  # what a killed worker left half-way
    interface.forget()
    started = time.monotonic()
    assert task.recipe is not None
    seed, bundle = task.training.seed, folder / MODEL
    run = task.folder / RUNS / task.training.name
    exported = making.export(run, bundle, recipe=task.recipe, data=task.data, seed=seed)
    judged = judging.evaluate(bundle, data=task.data, seed=seed, **task.options.get("evaluate", {}))
    measured = measure(bundle, task.options.get("bench", {}))
    trained = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for name, record in {"export": exported, "evaluate": judged, "bench": measured}.items():
        files.write_json(folder / f"{name}.json", clean(record))
    row = {**row_of(task, trained, exported, judged, measured), "seconds": time.monotonic() - started}
    files.write_json(folder / DONE, clean(row))
    return dict(clean(row))


def measure(bundle: Path, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A bench record of this machine and of each target asked for; a target that refuses the model says why in its place."""
    records = [using.bench(bundle, runs=options.get("runs", 200))]
    for target in options.get("targets", ()):
        try:
            records.append(using.bench(bundle, target=target))
        except TargetError as error:
            records.append(
                {"record": "refused", "target": target, "instructions": None, "reason": str(error)}
            )
    return records


def row_of(
    task: Task,
    trained: Mapping[str, Any],
    exported: Mapping[str, Any],
    judged: Mapping[str, Any],
    measured: list[dict[str, Any]],
) -> dict[str, Any]:
    """One row of the table from the records of its steps."""
    training, here = task.training, measured[0]
    return {
        "cell": task.name,
        "variant": training.variant,
        "alpha": training.alpha,
        "size_px": training.size_px,
        "recipe": task.recipe,
        "seed": training.seed,
        "accuracy": judged["accuracy"]["value"],
        "accuracy_low": judged["accuracy"]["low"],
        "accuracy_high": judged["accuracy"]["high"],
        "balanced_accuracy": judged["balanced_accuracy"]["value"],
        "ece": judged["ece"]["value"],
        "images": judged["images"],
        "part": judged["part"],
        "validation_accuracy": trained["validation"]["accuracy"],
        "best_epoch": trained["best_epoch"],
        "bytes": exported["onnx_bytes"] or exported["size_bytes"],
        "macs": exported["macs"],
        "parameters": exported["parameters"],
        **{f"instructions:{record['target']}": record["instructions"] for record in measured[1:]},
        "latency_p50_ms": here["latency_ms"]["p50"],
    }


def finished(folder: Path) -> dict[str, Any] | None:
    """The row of a finished cell; None where there is none."""
    path = folder / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@functools.lru_cache(maxsize=64)
def check_data(data: str, seed: int, digest: str) -> None:
    """Refuse other images than those the sweep is about; a worker looks once.

    Raises:
        DataError: ``sweep-data``; what ``open_dataset`` raises.
    """
    found = open_dataset(data, seed=seed).digest
    if found != digest:
        raise DataError(
            f"{data}: expected the data this sweep was started with ({digest[:12]}), got others ({found[:12]}): "
            "give the worker the same folder, or start the sweep with --ship",
            code="sweep-data",
        )

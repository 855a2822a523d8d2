"""A small real task for sweeps: seconds become hundredths, the rules stay: a run is resumed, a cell ends with ``cell.json``.

Every beginning is noted in ``journal.txt`` of the sweep's folder. A file ``fail-NAME`` there makes a task fail, ``crash-NAME``
makes it kill its process, for good; ``crash-once-NAME`` does so the first time.
"""

import hashlib
import json
import os
import signal
import time

from edge_derm import files
from edge_derm.errors import ModelError
from edge_derm.sweep.cells import RUNS
from edge_derm.sweep.work import DONE, finished

PACE_S = float(os.environ.get("SMALL_CELLS_PACE_S", "0.05"))


def perform(task):
    folder = task.folder / task.place
    done = finished(folder)
    if done is not None:
        return done
    if (folder / "run.json").exists():
        return trained(task)
    folder.mkdir(parents=True, exist_ok=True)
    with open(task.folder / "journal.txt", "a") as journal:
        journal.write(task.name + "\n")
    misfortune(task)
    time.sleep(PACE_S)
    if task.recipe is None:
        files.write_json(folder / "run.json", {"drawn": drawn(task.name)})
        return trained(task)
    run = json.loads((task.folder / RUNS / task.after / "run.json").read_text())
    row = {
        "cell": task.name,
        "variant": task.training.variant,
        "alpha": task.training.alpha,
        "size_px": task.training.size_px,
        "recipe": task.recipe,
        "seed": task.training.seed,
        "accuracy": (run["drawn"] + drawn(task.name)) / 2,
        "balanced_accuracy": run["drawn"],
        "bytes": int(1e6 * drawn(task.recipe) * task.training.alpha),
        "macs": task.training.size_px**2,
        "seconds": time.monotonic(),
    }
    files.write_json(folder / DONE, row)
    return row


def trained(task):
    return {"best_epoch": 1, "validation_accuracy": drawn(task.name)}


def drawn(name):
    """A number from 0 to 1 that belongs to ``name``."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def misfortune(task):
    if (task.folder / f"fail-{task.name}").exists():
        raise ModelError("expected luck,\ngot none", code="no-luck")
    once = task.folder / f"crash-once-{task.name}"
    if once.exists() or (task.folder / f"crash-{task.name}").exists():
        once.unlink(missing_ok=True)
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

"""The run folder: ``model.keras``, ``run.json``, ``history.csv``, and ``checkpoint.npz`` while it is being trained."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import platform
from pathlib import Path
from typing import Any, Mapping, Sequence

import keras
import numpy as np

from edge_derm import __version__, files
from edge_derm.errors import ModelError
from edge_derm.modeling import architecture, attention  # noqa: F401  Keras reads only classes it has seen
from edge_derm.modeling.interface import with_probabilities

MODEL, RECORD, HISTORY, CHECKPOINT = "model.keras", "run.json", "history.csv", "checkpoint.npz"


def versions() -> dict[str, str]:
    """What made a run."""
    backend = keras.backend.backend()
    return {
        "edge_derm": __version__,
        backend: importlib.import_module(backend).__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def digest(weights: Path) -> str:
    """SHA-256 of a file of weights, or of a run's model.

    Raises:
        ModelError: ``weights-missing``.
    """
    path = weights / MODEL if weights.is_dir() else weights
    if not path.is_file():
        raise ModelError(
            f"{weights}: expected a file of weights (.h5, .tflite) or a finished run, found none",
            code="weights-missing",
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(folder: Path, model: keras.Model, record: Mapping[str, Any]) -> None:
    """Write the finished run; ``run.json`` last, because it says that the run is complete."""
    with files.replace_file(folder / MODEL) as temporary:
        whole = temporary.with_suffix(".keras")
        try:
            model.save(whole)
            whole.replace(temporary)
        finally:
            whole.unlink(missing_ok=True)
    history: Sequence[Mapping[str, Any]] = record["history"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write_text(folder / HISTORY, text.getvalue())
    files.write_json(folder / RECORD, record)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def load(path: Path) -> tuple[keras.Model, dict[str, Any]]:
    """The Keras model and record of a run folder, or a bare ``.keras`` file (as probabilities) with an empty record.

    Raises:
        ModelError: ``run-missing``, ``run-unfinished``, ``run-broken``, ``keras-broken``, ``keras-interface``, ``keras-output``.
    """
    if path.suffix == ".keras":
        return with_probabilities(_load_model(path)), {}
    if not path.is_dir():
        raise ModelError(
            f"{path}: expected a run folder or a .keras file, found {'a file' if path.exists() else 'nothing'}",
            code="run-missing",
        )
    if not (path / RECORD).is_file():
        code, what = (
            ("run-unfinished", "an unfinished run: train again with the same --out to go on")
            if (path / CHECKPOINT).is_file()
            else ("run-missing", f"no {RECORD}: give the folder that train wrote")
        )
        raise ModelError(f"{path}: expected a finished run, found {what}", code=code)
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        record["classes"], record["size_px"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path / RECORD}: expected the record of a run, got {error!r}", code="run-broken"
        ) from error
    return _load_model(path / MODEL), record


def _load_model(path: Path) -> keras.Model:
    if not path.is_file():
        raise ModelError(f"{path}: expected a Keras model, found no such file", code="run-missing")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever the archive's defect leads to
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path}: expected a Keras 3 model file, got one that does not load: {reason}",
            code="keras-broken",
        ) from error

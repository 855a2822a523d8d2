"""A model that a target measures: a bundle folder or a bare .tflite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_derm.bundle import open_bundle
from edge_derm.errors import TargetError
from edge_derm.runtime import Classifier


def read_model(path: Path) -> bytes:
    """The .tflite bytes of a bundle (verified) or of a file. Raises TargetError ``bench-missing``, BundleError."""
    if path.is_dir():
        return open_bundle(path).model
    if not path.is_file():
        raise TargetError(
            f"{path}: expected a bundle folder or a .tflite file, found nothing", code="bench-missing"
        )
    return path.read_bytes()


def open_classifier(path: Path, **choices: Any) -> Classifier:
    """The same as a classifier. Raises those of ``Classifier.open`` and ``Classifier.of``."""
    return Classifier.open(path, **choices) if path.is_dir() else Classifier.of(path.read_bytes(), **choices)

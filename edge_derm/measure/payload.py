"""What a board is sent: this package as one importable zip, and the models. Reproducible bytes, no TensorFlow part."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import edge_derm
import firmware_bridge

RUNNER = "runner.zip"
_LEFT_OUT = ("modeling", "__pycache__", "firmware", "cli", "report")


def runner() -> bytes:
    """``edge_derm`` and ``firmware_bridge`` as a zip for PYTHONPATH; what a measurement never imports is left out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for package in (edge_derm, firmware_bridge):
            root = Path(str(package.__file__)).parent
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root.parent)
                if path.suffix in (".py", ".json", ".c") and not set(inside.parts) & set(_LEFT_OUT):
                    entry = zipfile.ZipInfo(str(inside), (1980, 1, 1, 0, 0, 0))
                    archive.writestr(entry, path.read_bytes(), compress_type=zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def model_file(path: Path, name: str) -> tuple[str, bytes]:
    """``(file name, bytes)``: a bundle's files packed as ``name.zip``, or a bare .tflite as ``name.tflite``."""
    if path.is_file():
        return f"{name}.tflite", path.read_bytes()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for part in sorted(path.iterdir()):
            archive.writestr(zipfile.ZipInfo(part.name, (1980, 1, 1, 0, 0, 0)), part.read_bytes())
    return f"{name}.zip", stream.getvalue()

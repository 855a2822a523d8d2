"""Memory of a model in a process of its own: peak resident size minus what the process held before loading."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_derm.bundle import onnx
from edge_derm.errors import TargetError
from edge_derm.runtime.backends import ONNX_BACKENDS

ENGINES = {
    "litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
    "onnxruntime": "onnxruntime",
    "onnxruntime-cuda": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "opencv": "cv2",
}
_CHILD = """
import contextlib, importlib, json, sys
from pathlib import Path
from edge_derm.measure.memory import ENGINES, resident_bytes
import numpy as np
from edge_derm.runtime import Classifier, load_engine
path, backend, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def load(where):
    return Classifier.open(where, backend=backend, threads=threads) if where.is_dir() else \\
        Classifier.of(where.read_bytes(), backend=backend, threads=threads)
with contextlib.suppress(ImportError):  # the engine itself refuses, with the line that installs it
    importlib.import_module(ENGINES[backend])
with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew: what imports needed for a moment is not the model's
before = resident_bytes()
classifier = load(path)
for _ in range(3):
    classifier.predict(np.zeros((classifier.size_px, classifier.size_px, 3), np.uint8))
print(json.dumps({"before": before, "peak": resident_bytes("VmHWM")}))
"""


def peak_rss(path: Path, *, backend: str = "litert", threads: int = 1) -> dict[str, Any]:
    """Memory fields of a record: ``model_bytes, arena_bytes, peak_rss_bytes`` and what they mean.

    Args:
        path: a bundle folder or a .tflite file.

    Raises:
        TargetError: ``memory-child``: the measuring process failed.
    """
    part = onnx.NAME if backend in ONNX_BACKENDS else "model.tflite"
    model = path / part if path.is_dir() else path
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), backend, str(threads)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise TargetError(f"{path}: the process that measures memory failed: {last}", code="memory-child")
    measured = json.loads(child.stdout)
    return {
        "model_bytes": model.stat().st_size,
        "arena_bytes": None,
        "arena_bytes_reason": "the engine's Python API does not tell the size of its tensor arena",
        "peak_rss_bytes": max(0, measured["peak"] - measured["before"]),
        "rss_before_bytes": measured["before"],
    }


def resident_bytes(field: str = "VmRSS") -> int:
    """Resident size of this process, now or (``VmHWM``) at its peak since the program started.

    ``getrusage`` would not do: its peak is inherited from the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise TargetError(
        f"/proc/self/status: expected a {field} line, found none: is this Linux?", code="memory-proc"
    )

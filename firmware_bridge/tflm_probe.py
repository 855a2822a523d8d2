"""Child process of ``tflm``: the model on standard input, what TensorFlow Lite Micro takes for it on standard error.

``python -m firmware_bridge.tflm_probe ARENA_BYTES RESOURCE_VARIABLES``; exit status 3: the wheel is not installed. The
wheel's native module is loaded by itself: its Python front would load all of TensorFlow to count those variables.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from typing import Any

MISSING = 3
_MODULE = "tflite_micro/python/tflite_micro/_runtime.so"


def load_runtime() -> Any:
    """Return the wheel's native module; ModuleNotFoundError, PackageNotFoundError or ImportError without it."""
    path = str(importlib.metadata.distribution("tflite-micro").locate_file(_MODULE))
    loader = importlib.machinery.ExtensionFileLoader("_runtime", path)
    spec = importlib.util.spec_from_loader("_runtime", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def main() -> int:
    """Allocate and print; the interpreter's own failures end the process as they will."""
    try:
        runtime = load_runtime()
    except ImportError:
        return MISSING
    model = sys.stdin.buffer.read()
    recording = runtime.PythonInterpreterConfig.kAllocationRecording
    runtime.InterpreterWrapper(model, [], int(sys.argv[1]), int(sys.argv[2]), recording).PrintAllocations()
    return 0


if __name__ == "__main__":
    sys.exit(main())

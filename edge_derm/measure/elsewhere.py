"""Packages whose dependencies clash with ours, each in a Python environment of its own, made once and cached.

``tflite-runtime`` wants NumPy 1 and CPython 3.11 or older; MediaPipe brings its own OpenCV.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Sequence

from edge_derm.errors import TargetError

ENVIRONMENTS = {
    "tflite-runtime": (
        "tflite-runtime==2.14.0",
        "numpy<2",
        "opencv-python-headless==4.11.0.86",
        "click>=8.1,<9",
        "flatbuffers>=24.3,<26",
        "tomli>=2,<3; python_version < '3.11'",
    ),
    "mediapipe": ("mediapipe==1.2.3",),
}
MODULES = {"tflite-runtime": "tflite_runtime", "mediapipe": "mediapipe"}


def variable(name: str) -> str:
    """The environment variable that names a Python which has the package: ``EDGE_DERM_TFLITE_RUNTIME_PYTHON``."""
    return f"EDGE_DERM_{name.upper().replace('-', '_')}_PYTHON"


def find_python(name: str) -> Path | None:
    """A Python with the package: the one the variable names, else the cached environment, else None.

    Raises:
        TargetError: ``python-missing``: the variable names a file that is not there.
    """
    named = os.environ.get(variable(name))
    if named:
        if not os.access(named, os.X_OK):
            raise TargetError(
                f"{variable(name)}: expected a Python that has {name}, found no program at {named}",
                code="python-missing",
            )
        return Path(named)
    folder = _folder(name)
    return folder / "bin" / "python" if (folder / "complete").exists() else None


def make_python(name: str) -> Path:
    """``find_python``, after making the environment where there is none; needs the package index.

    Raises:
        TargetError: ``python-not-made``, with pip's last words; nothing half-made is left.
    """
    found = find_python(name)
    if found is not None:
        return found
    folder = _folder(name)
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    try:
        _run([sys.executable, "-m", "venv", str(folder)], name)
        _run([str(python), "-m", "pip", "install", "-q", *ENVIRONMENTS[name]], name)
        _run([str(python), "-c", f"import {MODULES[name]}"], name)
        (folder / "complete").touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def clean_environment(path: Path | None = None) -> dict[str, str]:
    """This process's variables without Python's own; ``path`` becomes the other Python's module path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return kept if path is None else {**kept, "PYTHONPATH": str(path)}


def _folder(name: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = ENVIRONMENTS[name][0].partition("==")[2]
    return home / "edge-derm" / "python" / f"{name}-{version}-{sys.version_info[0]}.{sys.version_info[1]}"


def _run(command: Sequence[str], name: str) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**clean_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise TargetError(
            f"{name}: its environment could not be made: {' '.join(errors[-1].split())[:300]}: set {variable(name)} to a "
            "Python that has it",
            code="python-not-made",
        )

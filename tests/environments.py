"""Environments of their own, with packages that this one must not have."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def make_environment(folder: Path, *packages: str) -> Path:
    """Its python: a virtual environment with packages from the index, or a skip that says why not."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        made = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *packages], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"{packages[0]} did not install: {made.stderr[-300:]}")
        (folder / "complete").touch()
    return python

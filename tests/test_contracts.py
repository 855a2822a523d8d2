"""The house rules that a machine can check: who imports what, and that a board needs no TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_imports_point_only_backwards_along_the_arrows():
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_in_the_field_loads_tensorflow(tiny_bundle):
    """Every command a board runs, in one child process."""
    script = f"""
import sys
import edge_derm.runtime, edge_derm.measure.local, edge_derm.trust.evaluate, edge_derm.report.page
from edge_derm import cli
for name in cli.COMMANDS:
    assert cli.cli.get_command(None, name) is not None
from edge_derm.runtime import Classifier
import numpy as np
Classifier.open({str(tiny_bundle)!r}).classify([np.zeros((40, 50, 3), np.uint8)])
loaded = sorted(m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'keras', 'jax', 'torch', 'matplotlib'))
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_is_quick_because_it_loads_no_wing():
    script = "import sys, edge_derm.cli; assert not {'numpy', 'cv2'} & set(sys.modules), 'heavy import'"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_no_file_of_the_project_names_this_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    home = str(ROOT)
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.is_file():
            assert home.encode() not in path.read_bytes(), name

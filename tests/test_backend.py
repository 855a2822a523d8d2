"""Training means the same on TensorFlow and on JAX: equal losses, weights, averages and perturbations, step by step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for name in ("tensorflow", "jax"):
    pytest.importorskip(name)

from edge_derm.data import open_dataset, split  # noqa: E402
from edge_derm.modeling import training  # noqa: E402
from edge_derm.modeling.recipe import TrainConfig  # noqa: E402

pytestmark = pytest.mark.slow
TRAIN = "from edge_derm.cli import main; main()"


def on(backend, *command):
    """Python there: its exit status and what it said."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "run"
    dataset = open_dataset("synthetic:96")
    config = TrainConfig(
        size_px=32, epochs=1, batch=16, dropout=0.0, attention=True, dilation={"conv1": 2, "dw1": 2}
    )
    training.train(dataset, split(dataset, seed=0), config, out)
    return out


def test_steps_are_the_same_on_both_backends(start, tmp_path):
    found = []
    for backend in ("tensorflow", "jax"):
        out = tmp_path / f"{backend}.npz"
        code, said = on(backend, Path(__file__).with_name("backend_steps.py"), start, out)
        assert code == 0, said[-2000:]
        with np.load(out) as stored:
            found.append(dict(stored))
    ours, theirs = found
    assert set(ours) == set(theirs) and ours["iterations"] == theirs["iterations"] == 5
    assert np.allclose(ours["losses"], theirs["losses"], rtol=1e-3) and len(set(ours["losses"])) == 5
    for name in (name for name in ours if name.startswith(("live.", "average."))):
        before = name.replace(".", "_before.")
        a, b = ours[name] - ours[before], theirs[name] - theirs[before]
        if (
            a.ndim > 1
        ):  # kernels: each moved, and the same way; where a gradient is near zero its sign may differ
            assert np.abs(a).max() > 0 and np.isclose(a, b, atol=2e-6).mean() > 0.9, name
        elif (
            np.abs(a).max() > 1e-4
        ):  # statistics; of variances TensorFlow's operator takes the unbiased one, of 16 values here
            assert np.allclose(a, b, rtol=0.1, atol=0.01), name
    moved = [np.isclose(x["bank.0"], 0).mean() < 0.1 for x in found]
    assert all(moved) and np.isclose(ours["bank.0"], theirs["bank.0"], atol=1e-6).mean() > 0.9


def test_a_run_trained_on_jax_is_resumed_and_exported_like_any(tmp_path):
    out, bundle = tmp_path / "run", tmp_path / "b.bundle"
    common = ["train", "--data", "synthetic:60", "--size", 32, "--epochs", 2, "--out", out]
    code, said = on("jax", "-c", TRAIN, *common)
    assert code == 0, said
    record = (out / "run.json").read_text()
    assert '"jax"' in record and '"tensorflow"' not in record
    code, said = on("jax", "-c", TRAIN, *common)  # finished: nothing is made again
    assert code == 0 and (out / "run.json").read_text() == record
    code, said = on("tensorflow", "-c", TRAIN, "export", out, "--recipe", "int8", "--out", bundle)
    assert code == 0, said
    assert (bundle / "model.tflite").is_file()


@pytest.mark.parametrize("command", [["export"], ["compress", "--method", "qat"]], ids=lambda c: c[0])
def test_what_needs_tensorflow_says_so_and_writes_nothing(start, tmp_path, command):
    code, said = on("jax", "-c", TRAIN, *command, start, "--out", tmp_path / "out")
    assert code == 1 and "expected Keras on TensorFlow, got jax" in said, said[-1500:]
    assert not list(tmp_path.glob("**/model.*"))


def test_another_backend_is_refused(tmp_path):
    code, said = on("numpy", "-c", TRAIN, "train", "--data", "synthetic:60", "--out", tmp_path / "t")
    assert code == 1 and "expected Keras on tensorflow or jax, got numpy" in said, said[-1500:]

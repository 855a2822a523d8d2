"""The release recipe: one command from data to judged bundles, gone on with where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats
from scripts_of import benchmark

from edge_derm.origin import command_line
from edge_derm.trust import calibration

pytest.importorskip("keras", reason="Keras is not installed")
HERE = Path(__file__).parents[1]
heldout, reference = benchmark("heldout"), benchmark("reference")


@pytest.mark.slow
def test_one_command_rebuilds_and_judges_the_reference_models_and_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, str(HERE / "benchmarks/reference.py"), "--data", "synthetic:100", "--quick"]
    command += ["--work", str(tmp_path), "--json", str(tmp_path / "reference.json")]

    def run():
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((tmp_path / "reference.json").read_text())

    record = run()
    kept = {
        path: path.stat().st_mtime_ns
        for path in tmp_path.glob("*/*")
        if path.name in ("run.json", "model.tflite")
    }
    assert len(kept) == 8  # four runs, four bundles
    models = record["models"]
    assert models["student"]["size_px"] == 64 and models["small"]["size_px"] == 32
    # more pixels cost multiplications, not bytes: the weights are the same in number
    assert models["student"]["parameters"] == models["small"]["parameters"]
    assert models["student"]["macs"] > 3 * models["small"]["macs"]
    for model in models.values():
        assert model["images"] > 0 and set(model["test"]) == {"float", "int8_xnnpack", "int8_reference"}
        for figures in model["test"].values():
            balanced = figures["balanced_accuracy"]
            assert balanced["low"] <= balanced["value"] <= balanced["high"]
        assert 0 <= model["calibrated"]["coverage"] <= 1 and model["views"]["balanced_accuracy"]["n"] > 0
    assert str(tmp_path) not in json.dumps(record)  # where files lie is nobody's business
    again = run()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again["models"] == models


def test_the_figures_over_splits_are_students_and_leave_out_a_class_without_images():
    values = {"balanced_accuracy": [0.70, 0.74, 0.75], "accuracy": [0.8, 0.8, 0.83], "mel": [0.9, 0.92, 0.93]}

    def model(i):
        aurocs = {"mel": {"value": values["mel"][i]}, "df": {"value": None if i == 1 else 0.9}}
        figures = {key: {"value": values[key][i]} for key in ("balanced_accuracy", "accuracy")}
        return {
            "test": {"int8_xnnpack": {**figures, "auroc": aurocs}},
            "agreement": {"xnnpack": 0.97 + i / 100},
            "views": figures,
            "calibrated": {"ece": 0.02, "coverage": 0.9, "reliability": tables[i]},
        }

    rng = np.random.default_rng(0)
    stated = rng.random((3, 400))
    right = rng.random((3, 400)) < stated**2
    tables = [calibration.reliability(s, r, bins=calibration.BINS) for s, r in zip(stated, right)]

    told = heldout.over_splits([model(i) for i in range(3)])
    for name, found in (*((key, told[key]) for key in list(values)[:2]), ("mel", told["auroc"]["mel"])):
        low, high = stats.t.interval(0.95, 2, np.mean(values[name]), stats.sem(values[name]))
        assert (found["value"], found["low"], found["high"]) == pytest.approx(
            (np.mean(values[name]), low, high)
        )
    whole = calibration.ece(stated.ravel(), right.ravel())
    assert told["calibrated"]["ece_pooled"] == pytest.approx(whole)
    debiased = np.mean([calibration.ece_debiased(s, r) for s, r in zip(stated, right)])
    assert told["calibrated"]["ece_debiased"]["value"] == pytest.approx(debiased)
    assert list(told["auroc"]) == ["mel"] and told["agreement"]["value"] == pytest.approx(0.98)


@pytest.mark.slow
def test_a_release_is_trained_on_every_lesion(tmp_path):
    command = [sys.executable, str(HERE / "benchmarks/reference.py"), "--data", "synthetic:60", "--quick"]
    command += ["--work", str(tmp_path), "--splits", "3", "--hold-out", "0", "--train-only"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr[-2000:]
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*/run.json")]
    assert len(found) == 4 and not list(tmp_path.rglob("*.bundle"))
    for record in found:
        assert record["seed"] == 3 and set(record["data"]["parts"]) == {"train", "validation"}


def test_a_published_command_names_no_folder(monkeypatch):
    words = [
        "/home/me/b.py",
        "--run",
        "small=/home/me/runs/d1",
        "/data/ham10000",
        "--rate",
        "1/2",
        "--work=/tmp/x",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert command_line(folders=False) == "b.py --run small=d1 ham10000 --rate 1/2 --work=x"
    assert command_line() == " ".join(["b.py", *words[1:]])


@pytest.mark.parametrize("splits", ["x", "0,0", "1,", "-1"])
def test_splits_that_are_no_seeds_are_refused(tmp_path, splits):
    done = CliRunner().invoke(reference.main, ["--work", str(tmp_path), f"--splits={splits}"])
    assert done.exit_code == 2 and f"expected seeds like 0,1,2, each once, got {splits}" in done.output

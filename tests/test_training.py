"""Training: repeatable, resumable, in time, and able to learn."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
from edge_derm.data import open_dataset, split  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import runs, scoring, training  # noqa: E402

QUICK = training.TrainConfig(size_px=32, epochs=3, batch=16)


@pytest.fixture(scope="module")
def data():
    dataset = open_dataset("synthetic:96")
    return dataset, split(dataset, seed=0)


def weights(out):
    return runs.load(out)[0].get_weights()


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second))


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    dataset, parts = data

    def stop_after_two(state, model):
        if state.epoch == 3:  # the third epoch is lost before its state is written, as by a kill
            raise KeyboardInterrupt

    whole = training.train(dataset, parts, QUICK, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        training.train(dataset, parts, QUICK, tmp_path / "cut", callbacks=[stop_after_two])
    with pytest.raises(ModelError) as caught:
        runs.load(tmp_path / "cut")
    assert caught.value.code == "run-unfinished"
    resumed = training.train(dataset, parts, QUICK, tmp_path / "cut")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert whole["history"] == resumed["history"] and whole["validation"] == resumed["validation"]
    assert training.train(dataset, parts, QUICK, tmp_path / "cut") == json.loads(
        (tmp_path / "cut" / "run.json").read_text()
    )
    with pytest.raises(ModelError) as caught:
        training.train(dataset, parts, replace(QUICK, seed=1), tmp_path / "cut")
    assert caught.value.code == "run-differs"


@pytest.mark.slow
def test_a_budget_ends_in_time_with_a_usable_model(data, tmp_path):
    dataset, parts = data
    record = training.train(dataset, parts, replace(QUICK, epochs=500, budget_min=0.5), tmp_path / "run")
    assert record["seconds"] < 35 and 1 <= len(record["history"]) < 500
    model, _ = runs.load(tmp_path / "run")
    assert np.allclose(training.probabilities(model, dataset.images(32, [0, 1])).sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_it_learns_more_than_the_majority_class(tmp_path):
    dataset = open_dataset("synthetic:640")
    record = training.train(
        dataset, split(dataset, seed=0), training.TrainConfig(size_px=32, epochs=24), tmp_path / "run"
    )
    assert record["validation"]["balanced_accuracy"] > 0.5
    assert record["history"][-1]["loss"] < record["history"][0]["loss"]


def test_the_figures_of_a_run_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    figures = scoring.score(p, np.array([0, 0, 1, 1]), ["a", "b", "c"])
    assert figures["accuracy"] == 0.5 and figures["balanced_accuracy"] == 0.5
    assert figures["auroc"] == {"a": 0.75, "b": 0.75, "c": None}
    assert figures["loss"] == pytest.approx(-np.log([0.7, 0.4, 0.8, 0.3]).mean())


def test_area_counts_ties_half():
    assert scoring.auroc(np.array([1.0, 1.0, 1.0]), np.array([True, False, False])) == 0.5
    assert scoring.auroc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])) == 0.875


def test_damaged_run_folders_are_named(tmp_path):
    cases = {"absent": "run-missing", "empty": "run-missing", "broken": "run-broken"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "bad.keras").write_text("x")
    for name, code in {**cases, "bad.keras": "keras-broken"}.items():
        with pytest.raises(ModelError) as caught:
            runs.load(tmp_path / name)
        assert caught.value.code == code


@pytest.mark.slow
def test_killed_for_good_it_goes_on(tmp_path):
    """SIGKILL in the middle of a run of the command line; the same command then finishes it."""
    command = [
        sys.executable,
        "-c",
        "from edge_derm.cli import main; main()",
        "train",
        "--data",
        "synthetic:300",
        "--size",
        "32",
        "--epochs",
        "6",
        "--out",
        str(tmp_path / "run"),
    ]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "run" / "checkpoint.npz"
    for _ in range(600):
        if state.exists() or running.poll() is not None:
            break
        try:
            running.wait(0.1)
        except subprocess.TimeoutExpired:
            pass
    running.kill()
    running.wait()
    assert state.exists() and not (tmp_path / "run" / "run.json").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["history"]) == 6

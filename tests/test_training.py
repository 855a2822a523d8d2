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
from edge_derm.modeling import architecture, recipe, runs, scoring, training  # noqa: E402
from edge_derm.modeling.augmentation import Augmentation, augment  # noqa: E402
from edge_derm.modeling.normalising import trained_twin  # noqa: E402
from edge_derm.modeling.recipe import TrainConfig  # noqa: E402
from edge_derm.modeling.session import Session  # noqa: E402

QUICK = TrainConfig(size_px=32, epochs=3, batch=16)


@pytest.fixture(scope="module")
def data():
    dataset = open_dataset("synthetic:96")
    return dataset, split(dataset, seed=0)


def weights(out):
    return runs.load(out)[0].get_weights()


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second))


def test_a_run_is_the_same_wherever_its_starting_weights_lie(data, tmp_path):
    dataset, parts = data
    for place, content in (("here", b"weights"), ("there", b"weights"), ("other", b"others")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "w.h5").write_bytes(content)

    def identity(place):
        config = replace(QUICK, weights=str(tmp_path / place / "w.h5"))
        return training._identity(dataset, parts, config)

    assert identity("here") == identity("there") != identity("other")
    with pytest.raises(ModelError) as caught:
        identity("nowhere")
    assert caught.value.code == "weights-missing"


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
    profile = whole["profile"]
    parts_of_it = [profile[name] for name in ("waiting", "stepping", "judging")]
    assert all(seconds > 0 for seconds in parts_of_it) and sum(parts_of_it) <= profile["seconds"]
    assert profile["busy"] == pytest.approx(profile["processor_seconds"] / profile["seconds"])
    assert 0 < profile["busy"] <= profile["cores"]
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
    assert np.allclose(scoring.probabilities(model, dataset.images(32, [0, 1])).sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_budget_that_ends_within_an_epoch_cuts_it_and_the_model_is_usable(data, tmp_path):
    dataset, parts = data
    hurried = replace(QUICK, budget_min=1e-9)  # over before the first step, which is made all the same
    record = training.train(dataset, parts, hurried, tmp_path / "run")
    assert len(record["history"]) == 1
    model, _ = runs.load(tmp_path / "run")
    assert np.isfinite(scoring.probabilities(model, dataset.images(32, [0, 1]))).all()
    session = Session(dataset, parts, hurried)
    session.deadline = 0.0
    assert session.steps > 1
    session.epoch(session.fresh())
    assert int(session.optimizer.iterations) == 1


@pytest.mark.slow
def test_a_run_on_growing_views_goes_on_where_it_stopped_between_two_sizes(data, tmp_path):
    dataset, parts = data
    growing = TrainConfig(size_px=160, views_px=160, epochs=2, batch=16)  # 128, then 160

    def stop_after_one(state, model):
        if state.epoch == 2:
            raise KeyboardInterrupt

    training.train(dataset, parts, growing, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        training.train(dataset, parts, growing, tmp_path / "cut", callbacks=[stop_after_one])
    training.train(dataset, parts, growing, tmp_path / "cut")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_views_are_five_sixths_of_large_inputs_and_small_in_the_first_half():
    sides = {px: recipe.views_px(TrainConfig(size_px=px)) for px in (64, 96, 128, 144, 160, 192, 224)}
    assert sides == {64: 64, 96: 96, 128: 128, 144: 144, 160: 128, 192: 160, 224: 192}
    assert [recipe.side(TrainConfig(size_px=192), epoch, 5) for epoch in range(5)] == [
        128,
        128,
        160,
        160,
        160,
    ]
    assert [recipe.side(TrainConfig(size_px=64), epoch, 3) for epoch in range(3)] == [64, 64, 64]
    assert (
        recipe.side(TrainConfig(size_px=224, harden=0.04), 0, 4) == 224
    )  # a perturbation has the input's size


def test_the_budget_pays_for_larger_views_by_their_pixels():
    config = TrainConfig(size_px=192, epochs=100, budget_min=10)  # 540 s
    # two epochs at 128 px took 20 s, so one at 160 px takes 10 · (160/128)² = 15.625 s: of n epochs, n // 2 small
    fitting = recipe.affordable(config, 2, 100, 20.0)
    cost = lambda n: 10 * (n // 2) + 15.625 * (n - n // 2)  # noqa: E731
    assert cost(fitting) <= 540 < cost(fitting + 1)
    assert recipe.affordable(config, 3, 100, 545.0) == 3  # nothing left: it ends here


def test_the_trained_twin_computes_what_the_network_computes():
    model = architecture.build({"dw1": 2, "conv1": 2}, size_px=64, classes=5, dropout=0)
    twin = trained_twin(model)
    x = np.random.default_rng(0).normal(size=(8, 64, 64, 3)).astype(np.float32)
    assert [w.shape for w in model.weights] == [w.shape for w in twin.weights]
    for _ in range(2):  # the second pass meets moved statistics
        np.testing.assert_allclose(model(x, training=True), twin(x, training=True), atol=1e-4)
    for ours, keras_own in zip(twin.weights, model.weights):
        np.testing.assert_allclose(ours.numpy(), keras_own.numpy(), rtol=0.02, atol=1e-3)  # unbiased variance
    twin.set_weights(model.get_weights())
    np.testing.assert_allclose(model(x), twin(x), atol=1e-5)
    assert twin(x[:, :32, :32]).shape == (8, 5)  # any size


def test_views_are_repeatable_turn_about_the_centre_and_keep_mean_colour():
    plain = np.full((4, 40, 40, 3), (200, 120, 60), np.uint8)
    still = Augmentation(zoom=(1.0, 1.0), turn=False, contrast=0, brightness=0, tint=0)
    assert np.array_equal(augment(plain, 32, [1], Augmentation()), augment(plain, 32, [1], Augmentation()))
    np.testing.assert_array_equal(
        augment(plain, 32, [1], still), np.broadcast_to(np.array([200, 120, 60]) / 128 - 1, (4, 32, 32, 3))
    )
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, None, :, None] * 8, (16, 32, 32, 3)).copy()
    seen = {view[0, 0, 0] > view[0, 31, 0] for view in augment(ramp, 32, [3], still)}
    assert seen == {True, False}  # both a picture and its mirror image, and nothing between
    exact = (np.arange(32) * 8 / 128 - 1)[None, :, None]
    for view in augment(ramp, 32, [3], still):
        np.testing.assert_allclose(np.sort(view, axis=1), np.broadcast_to(exact, view.shape), atol=1 / 128)


@pytest.mark.slow
def test_it_learns_more_than_the_majority_class(tmp_path):
    dataset = open_dataset("synthetic:640")
    record = training.train(
        dataset, split(dataset, seed=0), TrainConfig(size_px=32, epochs=24), tmp_path / "run"
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

"""What a run keeps, and a state of an earlier version."""

import json

import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")
from edge_derm.modeling.checkpoint import State, read_state, write_state  # noqa: E402

FIGURES = {"loss": 1.0, "accuracy": 0.9, "balanced_accuracy": 0.8, "auroc": {"a": 0.6, "b": None}}


def after(state, number, **figures):
    weights = {name: [np.array(number)] for name in ("live", "average", "optimizer")}
    return state.after(0.5, {**FIGURES, **figures}, **weights)


def test_the_last_epoch_stands_whatever_an_earlier_one_came_to():
    state = after(after(State(0, 2, live=(), average=(), optimizer=()), 1), 2, accuracy=0.4)
    assert state.finished and state.average == [np.array(2)] and state.validation["accuracy"] == 0.4
    assert [row["validation_accuracy"] for row in state.history] == [0.9, 0.4]
    assert state.history[0]["selection"] == pytest.approx(0.7)  # the mean of 0.8 and the one area there is


def test_a_state_that_kept_a_best_epoch_goes_on_without_it(tmp_path):
    path, state = tmp_path / "checkpoint.npz", after(State(0, 3, live=(), average=(), optimizer=()), 1)
    write_state(path, state, {"run": 1})
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files if key != "plain"}
        plain = json.loads(str(stored["plain"]))
    older = {**plain, "best_epoch": 1, "best_figure": 0.7}
    np.savez(path, plain=np.array(json.dumps(older)), **arrays, **{"best.0": np.array(7)})
    found = read_state(path, {"run": 1})
    assert found is not None and (found.epoch, found.validation, found.history) == (
        1,
        state.validation,
        state.history,
    )
    assert found.average == [np.array(1)] and not found.finished

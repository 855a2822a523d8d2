"""Which epoch a run keeps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_derm.modeling.checkpoint import State


def run(figures, epochs):
    """The states after epochs of these validation figures; the averaged weights are the epoch's number."""
    states = [State(0, epochs, live=(), average=(), optimizer=())]
    for number, figure in enumerate(figures, 1):
        told = {"loss": 0.0, "accuracy": figure, "balanced_accuracy": figure}
        average = [np.array(number)]
        states.append(states[-1].after(0.0, told, figure, live=(), average=average, optimizer=()))
    return states[1:]


def kept(state):
    return int(state.best[0]), state.best_epoch, state.validation["accuracy"]


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=12))
def test_the_best_of_the_last_third_is_kept_and_before_it_the_last(figures):
    count = len(figures)
    settled = range(2 * count // 3 + 1, count + 1)
    best = max(settled, key=lambda epoch: figures[epoch - 1])  # the first of equal ones
    states = run(figures, count)
    assert kept(states[-1]) == (best, best, figures[best - 1]) and states[-1].finished
    for number, state in enumerate(states[: settled.start - 1], 1):
        assert kept(state) == (number, number, figures[number - 1]) and not state.finished


@pytest.mark.parametrize("done", [1, 7, 8, 9])
def test_a_schedule_that_shrinks_to_what_was_done_keeps_something_of_its_end(done):
    state = replace(run([0.9] + [0.5] * (done - 1), 12)[-1], epochs=done)
    assert state.finished and state.best_epoch >= min(done, 8)

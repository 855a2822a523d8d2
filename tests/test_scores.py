"""What a table of shares gives is what the arithmetic gives, however the stored scores lie in memory."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.bundle import Calibration, Input, Manifest, Output
from edge_derm.runtime.backends import TensorSpec
from edge_derm.runtime.scores import Scores

ONE_ULP = 2.0**-23
BASE = Manifest(labels=("a", "b"), input=Input(32, "int8"), output=Output("int8"), recipe="int8", io="int8")


def scores_of(classes, **choices):
    output = choices.pop("output", BASE.output)
    manifest = replace(BASE, labels=tuple(map(str, range(classes))), output=output, **choices)
    scale = 1 / 256 if output.activation == "softmax" else 0.25
    return Scores(TensorSpec("scores", (1, classes), output.dtype, scale, -128), manifest)


@settings(derandomize=True, deadline=None)
@given(st.data())
def test_every_table_gives_what_the_arithmetic_gives_to_the_last_bit_but_one(data):
    classes = data.draw(st.integers(2, 9))

    def each(low, high):
        return st.none() | st.tuples(*[st.floats(low, high)] * classes)

    scores = scores_of(
        classes,
        output=Output("int8", data.draw(st.sampled_from(["softmax", "logits"]))),
        temperature=data.draw(st.none() | st.just(1.0) | st.floats(0.01, 100)),
        calibration=Calibration(scale=data.draw(each(0.1, 5)), shift=data.draw(each(-20, 20))),
    )
    rows = st.lists(st.tuples(*[st.integers(-128, 127)] * classes), max_size=6)
    stored = np.array(data.draw(rows), np.int8).reshape(-1, classes)
    p = scores.probabilities(stored)
    assert p.dtype == np.float32 and p.shape == stored.shape
    np.testing.assert_allclose(p, scores.calibrated(scores.real(stored)), rtol=ONE_ULP, atol=1e-38)
    passes = np.stack([stored, stored[::-1]])
    for found in (scores.probabilities(passes)[0], scores.probabilities(np.asfortranarray(stored))):
        assert found.tobytes() == p.tobytes()
    for alone, row in zip(stored, p):
        assert scores.probabilities(alone[np.newaxis]).tobytes() == row.tobytes()


@pytest.mark.parametrize("row", [(5, -5), (-7, 7), (0, 0), (-3, -4), (2, 6)])
def test_scores_below_zero_of_what_is_called_a_softmax_are_told_as_the_arithmetic_tells_them(row):
    scores = Scores(TensorSpec("scores", (1, 2), "int8", 0.25, 0), BASE)
    stored = np.array([row], np.int8)
    for many in (stored, np.concatenate([stored, stored])):
        wanted = scores.calibrated(scores.real(many))
        np.testing.assert_allclose(scores.probabilities(many), wanted, rtol=ONE_ULP)

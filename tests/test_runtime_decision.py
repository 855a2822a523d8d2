"""Temperature, entropy, conformal sets and abstention follow their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.runtime import decision

rows = st.lists(st.integers(0, 255), min_size=3, max_size=3).filter(any)
tables = st.lists(rows, min_size=1, max_size=5)
REPEATABLE = settings(max_examples=100, deadline=None, derandomize=True)


@REPEATABLE
@given(tables, st.floats(0.05, 20))
def test_temperature_divides_the_logits(counts: list[list[int]], temperature: float) -> None:
    raw = np.array(counts) / 256
    expected = scipy.special.softmax(np.log(np.maximum(raw, 1 / 512)) / temperature, axis=1)
    got = decision.probabilities(raw, temperature=temperature, floor=1 / 512)
    if temperature != 1.0:
        np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)


@REPEATABLE
@given(tables, st.floats(0.05, 20))
def test_temperature_never_changes_the_order(counts: list[list[int]], temperature: float) -> None:
    raw = np.array(counts) / 256
    got = decision.probabilities(raw, temperature=temperature, floor=1 / 512)
    for before, after in zip(raw, got):
        assert before[after.argmax()] == before.max()


def test_logits_are_put_through_a_softmax() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(
        decision.probabilities(logits, activation="logits", temperature=2.0),
        scipy.special.softmax(logits.astype(np.float64) / 2, axis=1),
        atol=1e-7,
    )


def test_a_row_quantised_to_nothing_is_uniform() -> None:
    got = decision.probabilities(np.array([[0.0, 0.0], [0.25, 0.75]], np.float32))
    np.testing.assert_array_equal(got, [[0.5, 0.5], [0.25, 0.75]])


@REPEATABLE
@given(tables)
def test_entropy_is_scipys(counts: list[list[int]]) -> None:
    p = np.array(counts) / np.sum(counts, axis=1, keepdims=True)
    np.testing.assert_allclose(decision.entropy(p), scipy.stats.entropy(p, axis=1), atol=1e-12)


@pytest.mark.parametrize(
    ("p", "value"), [([1.0, 0.0, 0.0], 0.0), ([1 / 3] * 3, np.log(3)), ([0.5, 0.5, 0], np.log(2))]
)
def test_entropy_at_its_ends(p: list[float], value: float) -> None:
    assert decision.entropy(np.array([p]))[0] == pytest.approx(value, abs=1e-15)


def test_a_conformal_set_holds_every_class_within_the_quantile() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]])
    np.testing.assert_array_equal(
        decision.prediction_set(p, 0.75), [[True, False, False], [True, True, True]]
    )
    assert not decision.prediction_set(p, 0.0).any() and decision.prediction_set(p, 1.0).all()


def test_conformal_sets_cover_as_promised_on_fresh_data() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(5), 40_000)
    truth = (p.cumsum(axis=1) > rng.random((40_000, 1))).argmax(axis=1)  # drawn from p itself
    scores = 1 - p[np.arange(40_000), truth]
    quantile = float(np.quantile(scores[:20_000], 0.9, method="higher"))
    covered = decision.prediction_set(p[20_000:], quantile)[np.arange(20_000), truth[20_000:]]
    assert abs(covered.mean() - 0.9) < 0.01


def test_off_means_none_and_on_means_decided() -> None:
    p = np.array([[0.1, 0.6, 0.3]], np.float32)
    (off,) = decision.decide(p, "abc")
    assert (off.label, off.prediction_set, off.abstained) == ("b", None, None)
    (on,) = decision.decide(p, "abc", conformal_quantile=0.75, abstain_threshold=0.6)
    assert (on.prediction_set, on.abstained) == (("b", "c"), False)
    (empty,) = decision.decide(p, "abc", conformal_quantile=0.1, abstain_threshold=0.7)
    assert (empty.prediction_set, empty.abstained) == ((), True)


def test_a_tie_goes_to_the_earlier_label() -> None:
    assert decision.decide(np.array([[0.25, 0.375, 0.375]]), "abc")[0].label == "b"

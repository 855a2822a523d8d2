"""What is fitted keeps its promise, against SciPy, brute force and arithmetic written out."""

import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.bundle import open_bundle
from edge_derm.errors import DataError
from edge_derm.runtime import measures
from edge_derm.runtime.decision import prediction_set
from edge_derm.trust import fitting


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_temperature_is_where_scipy_finds_the_least_loss(true_temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (3000, 5))
    p = scipy.special.softmax(logits / true_temperature, axis=1)
    y = (p.cumsum(1) > rng.random((3000, 1))).argmax(1)

    def loss(t):
        return -scipy.special.log_softmax(logits / t, axis=1)[np.arange(3000), y].mean()

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-10})
    found = fitting.fit_temperature(logits, y)
    assert found == pytest.approx(best.x, rel=1e-5) and found == pytest.approx(true_temperature, rel=0.15)


def test_temperature_stays_in_its_range_where_the_data_ask_for_more():
    z = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fitting.fit_temperature(z, np.array([0, 1])) == fitting.COLDEST
    assert fitting.fit_temperature(z, np.array([1, 0])) == fitting.HOTTEST


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.floats(0.01, 0.5), st.integers(0, 2**31))
def test_the_quantile_covers_the_promised_share_of_its_own_scores(n, miscoverage, seed):
    rng = np.random.default_rng(seed)
    p, y = rng.dirichlet(np.ones(4), n), rng.integers(0, 4, n)
    inside = prediction_set(p, fitting.fit_quantile(p, y, miscoverage=miscoverage))[np.arange(n), y]
    assert inside.sum() >= min(n, (n + 1) * (1 - miscoverage)) - 1e-6


def test_fresh_images_are_covered_as_promised():
    rng = np.random.default_rng(1)
    p, covered = rng.dirichlet(np.ones(5), 20_000), []
    y = (p.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    for miscoverage in (0.05, 0.1, 0.3):
        q = fitting.fit_quantile(p[:10_000], y[:10_000], miscoverage=miscoverage)
        covered = prediction_set(p[10_000:], q)[np.arange(10_000), y[10_000:]]
        assert abs(covered.mean() - (1 - miscoverage)) < 0.02


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0, 0.1, 0.3, 1]),
)
def test_abstaining_answers_as_many_as_the_risk_allows(pairs, risk):
    confidence, correct = np.array([c / 8 for c, _ in pairs]), np.array([c for _, c in pairs])
    allowed = [t for t in np.unique(confidence) if (~correct[confidence >= t]).mean() <= risk + 1e-12]
    assert fitting.fit_abstain(confidence, correct, risk=risk) == (min(allowed) if allowed else None)


def test_halves_keep_lesions_whole():
    groups = [str(i // 3) for i in range(60)]
    fit, check = fitting.halves(groups, seed=4)
    assert sorted([*fit, *check]) == list(range(60))
    assert not {groups[i] for i in fit} & {groups[i] for i in check}
    with pytest.raises(DataError) as caught:
        fitting.halves(["a", "a"])
    assert caught.value.code == "calibration-too-small"


def test_measures_by_arithmetic_written_out():
    passes = np.array([[[0.9, 0.1, 0.0]], [[0.5, 0.3, 0.2]]])
    found = {name: value[0] for name, value in measures.measures(passes).items()}
    mean = [0.7, 0.2, 0.1]
    assert found["entropy"] == pytest.approx(scipy.stats.entropy(mean), abs=1e-12)
    assert found["normalised_entropy"] == pytest.approx(scipy.stats.entropy(mean, base=3), abs=1e-12)
    assert found["variance"] == pytest.approx((0.2**2 + 0.1**2 + 0.1**2) / 3, abs=1e-12)
    split = (scipy.stats.entropy([0.9, 0.1]) + scipy.stats.entropy([0.5, 0.3, 0.2])) / 2
    assert found["mutual_information"] == pytest.approx(scipy.stats.entropy(mean) - split, abs=1e-12)
    assert found["max_probability"] == pytest.approx(0.7)
    assert found["bhattacharyya"] == 0.0  # of twenty bins the first class in 18 and 10, the second in 2 and 6


@pytest.mark.parametrize(
    "first, overlap",
    [
        ([0.9, 0.1], 1.0),  # each class once in bin 18 and once in bin 2
        ([1.0, 0.0], 1.0),  # a probability of 1 falls in bin 19
        ([1.0], 0.0),
        ([0.52, 0.52, 0.48, 0.62], 2 * math.sqrt(0.5 * 0.25)),  # bins 10, 10, 9, 12 against 9, 9, 10, 7
    ],
)
def test_the_bhattacharyya_coefficient_by_arithmetic_written_out(first, overlap):
    passes = np.stack([first, np.round(1 - np.array(first), 12)], axis=-1)[:, np.newaxis]
    assert measures.bhattacharyya(passes)[0] == pytest.approx(overlap, abs=1e-12)
    assert measures.measures(passes)["bhattacharyya"][0] == pytest.approx(overlap, abs=1e-12)


def test_one_pass_has_no_variance_and_no_mutual_information():
    found = measures.measures(np.random.default_rng(0).dirichlet(np.ones(7), (1, 50)))
    assert not found["variance"].any() and not found["mutual_information"].any()


def test_calibrate_writes_what_predict_applies(tiny_bundle, tmp_path):
    rng = np.random.default_rng(0)
    for label in ("akiec", "bcc", "mel", "nv"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(8):
            picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "images" / label / f"{i}.png"), picture)
    call = [sys.executable, "-c", "from edge_derm.cli import main; main()"]
    arguments = [
        "calibrate",
        str(tiny_bundle),
        "--data",
        str(tmp_path / "images"),
        "--risk",
        "1",
        "--json",
        "-",
    ]
    done = subprocess.run(call + arguments, capture_output=True, text=True)
    record, manifest = json.loads(done.stdout), open_bundle(tiny_bundle).manifest
    for key in ("temperature", "conformal_quantile", "abstain_threshold"):
        assert record[key] == getattr(manifest, key) is not None
    assert (
        record["images"] == {"fit": 32, "check": 32}
        and record["coverage"]["n"] == 32
        and record["folds"] == 5
    )
    assert {"ece_before", "ece_after"} <= set(record)
    picture = str(tmp_path / "images" / "mel" / "0.png")
    done = subprocess.run(
        call + ["predict", str(tiny_bundle), picture, "--json", "-"], capture_output=True, text=True
    )
    (predicted,) = json.loads(done.stdout)
    inside = {k for k, v in predicted["probabilities"].items() if 1 - v <= record["conformal_quantile"]}
    assert set(predicted["prediction_set"]) == inside
    highest = max(predicted["probabilities"].values())
    assert predicted["abstained"] is (highest < record["abstain_threshold"])

"""Scalings, prediction sets and the bounded abstain rule: against SciPy, and against what they promise."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm import judging, making
from edge_derm.bundle import Calibration, Dropout, open_bundle, update_bundle
from edge_derm.calibrating import calibrate
from edge_derm.errors import BundleError
from edge_derm.runtime import Classifier, decision
from edge_derm.trust import calibrating, calibration, fitting, scaling


def population(n, *, seed=0, frequencies=(0.7, 0.2, 0.06, 0.04), spread=1.5):
    """Logits of a model that is perfect for balanced classes, and targets drawn with other frequencies."""
    rng = np.random.default_rng(seed)
    classes = len(frequencies)
    y = rng.choice(classes, n, p=frequencies)
    x = rng.normal(0, 1, (n, classes)) + spread * np.eye(classes)[y]
    return x * spread, y  # log p(x | class) up to a constant


@pytest.mark.parametrize("method", ["prior", "shift", "vector"])
def test_the_fit_is_where_scipy_finds_the_least_loss(method):
    z, y = population(800)
    prior = scaling.log_frequencies(y, 4)

    def prior_loss(theta):
        log_p = scipy.special.log_softmax(z * theta[0] + prior * theta[1], axis=1)
        return -log_p[np.arange(800), y].mean() + scaling.PULL * ((theta - 1) ** 2).sum()

    best = scipy.optimize.minimize(prior_loss, np.ones(2), tol=1e-12).x
    centre = np.concatenate([np.full(4, best[0]), best[1] * prior])

    def vector_loss(theta):
        log_p = scipy.special.log_softmax(z * theta[:4] + theta[4:], axis=1)
        return -log_p[np.arange(800), y].mean() + scaling.RIDGE["vector"] * ((theta - centre) ** 2).sum()

    def shift_loss(theta):
        away = theta - np.concatenate([centre[:1], centre[4:]])
        log_p = scipy.special.log_softmax(z * theta[0] + theta[1:], axis=1)
        return -log_p[np.arange(800), y].mean() + scaling.RIDGE["shift"] * (away**2).sum()

    found = scaling.fit(z, y, method)
    sharpness = np.broadcast_to(np.asarray(found.scale or 1.0) / found.temperature, 4)
    if method == "vector":
        best = scipy.optimize.minimize(vector_loss, centre, tol=1e-12).x
        np.testing.assert_allclose(sharpness, best[:4], rtol=1e-4)
        np.testing.assert_allclose(found.shift, best[4:], atol=1e-4)
    elif method == "shift":
        best = scipy.optimize.minimize(shift_loss, np.concatenate([centre[:1], centre[4:]]), tol=1e-12).x
        np.testing.assert_allclose(sharpness, best[0], rtol=1e-4)
        np.testing.assert_allclose(found.shift, best[1:], atol=1e-4)
    else:
        np.testing.assert_allclose(sharpness, best[0], rtol=1e-5)
        np.testing.assert_allclose(found.shift, best[1] * prior, atol=1e-5)


def test_a_model_trained_for_balanced_classes_needs_the_prior_and_gets_it():
    z, y = population(4000, spread=1.0)
    parts = fitting.folds([str(i) for i in range(4000)])
    assert scaling.choose(z, y, parts) == "prior"
    fresh, truth = population(4000, seed=1, spread=1.0)
    fitted = {method: scaling.fit(z, y, method).apply(fresh) for method in ("temperature", "prior")}
    p = np.exp(fitted["prior"])
    assert calibration.ece(p.max(axis=1), p.argmax(axis=1) == truth) < 0.025
    # The truth is known here: the shift is the log of the frequencies, and it is worth this much likelihood.
    exact = scipy.special.log_softmax(fresh + np.log([0.7, 0.2, 0.06, 0.04]), axis=1)
    assert scaling.loss(fitted["prior"], truth) == pytest.approx(scaling.loss(exact, truth), abs=0.005)
    assert scaling.loss(fitted["temperature"], truth) > scaling.loss(exact, truth) + 0.02


def test_a_calibrated_model_keeps_the_plain_temperature():
    z, y = population(3000, frequencies=(0.25,) * 4)
    assert scaling.choose(z, y, fitting.folds([str(i) for i in range(3000)])) == "temperature"


@pytest.mark.parametrize("method", scaling.KEEPING)
def test_calibration_never_moves_a_decision_unless_it_is_asked_to(method):
    z, y = population(1500, spread=1.0)
    fitted = calibrating.fit(z, y, method, calibrating.Wanted(method))
    p = np.exp(fitted.scaling.apply(z))
    assert (decision.named(p, fitted.weights) == z.argmax(axis=1)).all()
    moving = calibrating.fit(z, y, method, calibrating.Wanted(method, move=True))
    moved = (decision.named(p, moving.weights) != z.argmax(axis=1)).mean()
    assert moved == 0 if method == "temperature" else moved > 0.1


def test_auto_never_takes_the_scaling_that_moves_decisions():
    z, y = population(3000, spread=1.0)
    z = z * np.array([0.4, 1.0, 1.6, 1.0])  # only a scale a class undoes that
    parts = fitting.folds([str(i) for i in range(3000)])
    assert scaling.choose(z, y, parts, scaling.METHODS) == "vector"
    assert scaling.choose(z, y, parts) in scaling.KEEPING
    groups = [str(i) for i in range(3000)]
    before = scipy.special.softmax(z, axis=1)
    _, record = calibrating.calibrate(z, before, y, groups, calibrating.Wanted(), labels="abcd")
    assert record["decisions_changed"] == 0 and record["accuracy_before"] == record["accuracy_after"]
    assert all(row["before"] == row["after"] for row in record["sensitivity"].values())
    _, moved = calibrating.calibrate(z, before, y, groups, calibrating.Wanted("vector"), labels="abcd")
    rare = moved["sensitivity"]["d"]
    assert moved["decisions_changed"] > 0.1 and rare["after"]["value"] < rare["before"]["value"] - 0.2


def test_the_confidence_in_the_label_named_is_how_often_it_is_right():
    z, y = population(4000, spread=1.0)
    fresh, truth = population(20_000, seed=1, spread=1.0)
    fitted = calibrating.fit(z, y, "shift", calibrating.Wanted("shift"))
    p = np.exp(fitted.scaling.apply(fresh))
    chosen = decision.named(p, fitted.weights)
    assert (chosen == fresh.argmax(axis=1)).all() and (chosen != p.argmax(axis=1)).mean() > 0.2
    sure = decision.confidences(p, chosen)
    assert calibration.ece(sure, chosen == truth) < 0.02
    rare = chosen == 3  # one image in 25 is of it, and many more are named so
    right = (truth[rare] == 3).mean()
    assert abs(sure[rare].mean() - right) < 0.03
    assert scipy.special.softmax(fresh[rare], axis=1).max(axis=1).mean() > right + 0.2


@pytest.mark.slow
def test_coverage_over_random_splits_is_the_promise_and_scatters_as_chance_does():
    z, y = population(1200)
    groups = [str(i) for i in range(1200)]
    found = calibrating.coverage_splits(
        z, y, groups, "prior", calibrating.Wanted("prior", miscoverage=0.1), splits=200
    )
    assert abs(found["mean"] - 0.9) < 0.01 and found["low"] < 0.9 < found["high"]
    # Halves of one set are not independent: what one half has too little of, the other has too much of.
    assert 0.8 < found["spread"] / found["expected_spread"] < 1.6
    assert found["expected_spread"] == pytest.approx(np.sqrt(0.09 / 602 + 0.09 / 600))


@pytest.mark.parametrize("method", scaling.METHODS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_images_gives_finite_answers(method, n):
    z, y = population(n, seed=n)
    for logits in (z, np.zeros_like(z), z * 1000):
        log_p = scaling.fit(logits, y, method).apply(logits)
        assert np.isfinite(np.exp(log_p)).all() and np.allclose(np.exp(log_p).sum(axis=1), 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 400), st.integers(1, 400), st.floats(1e-4, 0.5))
def test_the_upper_bound_is_scipys_clopper_pearson(successes, n, doubt):
    successes = min(successes, n)
    wanted = 1.0 if successes == n else scipy.stats.beta.ppf(1 - doubt, successes + 1, n - successes)
    assert fitting.upper_bound(successes, n, doubt=doubt) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.slow
def test_the_bounded_abstain_rule_keeps_the_risk_on_new_images_as_often_as_it_says():
    rng = np.random.default_rng(0)
    broken = answered = 0
    for _ in range(100):
        confidence = rng.beta(4, 1.5, 400)
        threshold = fitting.fit_abstain(confidence, rng.random(400) < confidence, risk=0.15, doubt=0.1)
        if threshold is None:
            continue
        fresh = rng.beta(4, 1.5, 20_000)
        fresh = fresh[fresh >= threshold]
        answered += 1
        broken += (1 - fresh).mean() > 0.15  # the true risk: confidence is calibrated here
    assert answered > 40 and broken / 100 <= 0.1


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
@pytest.mark.parametrize("by_class", [False, True])
def test_prediction_sets_cover_new_images_as_promised(score, by_class):
    z, y = population(6000)
    wanted = calibrating.Wanted("prior", score, by_class, miscoverage=0.1)
    fitted = calibrating.fit(z, y, "prior", wanted)
    fresh, truth = population(30_000, seed=2)
    p = np.exp(fitted.scaling.apply(fresh))
    inside = decision.prediction_set(p, fitted.class_quantiles or fitted.quantile, **wanted.sets)
    covered = inside[np.arange(30_000), truth]
    assert abs(covered.mean() - 0.9) < 0.02
    if by_class:
        assert all(abs(covered[truth == c].mean() - 0.9) < 0.05 for c in range(4))
    if score != "lac" and not by_class:
        assert inside.any(axis=1).all()


def test_set_scores_by_arithmetic_written_out():
    p = np.array([[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(decision.set_scores(p), [[0.8, 0.5, 0.7]])
    np.testing.assert_allclose(decision.set_scores(p, score="aps"), [[0.9, 0.25, 0.65]])
    regularised = decision.set_scores(p, score="raps", penalty=0.1, free_rank=1)
    np.testing.assert_allclose(regularised, [[0.9 + 0.2, 0.25, 0.65 + 0.1]])


def test_a_class_without_images_is_in_every_set():
    z, y = population(200, frequencies=(0.5, 0.5, 0.0, 0.0))
    fitted = calibrating.fit(z, y, "prior", calibrating.Wanted("prior", by_class=True))
    assert fitted.class_quantiles[2] == fitted.class_quantiles[3] == 1.0


def test_no_image_is_judged_by_what_it_was_fitted_on():
    # Two groups that pull in opposite directions: whoever judged itself would look calibrated.
    z = np.tile([[3.0, 0.0]], (40, 1))
    y = np.repeat([0, 1], 20)
    crossed = np.exp(scaling.cross_fit(z, y, [np.arange(20), np.arange(20, 40)], "prior"))
    assert (crossed[:20, 0] < 0.1).all() and (crossed[20:, 0] > 0.9).all()


def test_calibration_and_dropout_survive_the_manifest(tiny_bundle):
    fitted = Calibration((1.0, 2.0, 0.5, 1.0), (0.0, -1.0, 0.25, 3.0), "raps", (0.9, 0.8, 1.4, 0.7), 0.1, 2)
    fitted = dataclasses.replace(fitted, weights=(1.0, 0.5, 0.25, 2.0))
    update_bundle(open_bundle(tiny_bundle), calibration=fitted, dropout=Dropout(0.2, 2))
    again = open_bundle(tiny_bundle).manifest
    assert again.calibration == fitted and again.dropout == Dropout(0.2, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"calibration": Calibration(scale=(1.0, 1.0))},
        {"calibration": Calibration(scale=(1.0, 0.0, 1.0, 1.0))},
        {"calibration": Calibration(score="best")},
        {"calibration": Calibration(weights=(1.0, 1.0))},
        {"calibration": Calibration(weights=(1.0, 0.0, 1.0, 1.0))},
        {"calibration": Calibration(shift=(0.0, float("nan"), 0.0, 0.0))},
        {"conformal_quantile": 1.5},
        {"dropout": Dropout(1.0)},
        {"dropout": Dropout(0.2, 0)},
    ],
)
def test_a_manifest_refuses_calibrations_that_cannot_be(tiny_bundle, wrong):
    with pytest.raises(BundleError) as refused:
        update_bundle(open_bundle(tiny_bundle), **wrong)
    assert refused.value.code.startswith("manifest-")


def test_the_label_named_is_the_weighted_one_and_its_own_probability_decides_on_abstaining(
    tiny_bundle, tiny_images
):
    own = Classifier.open(tiny_bundle)
    answers = own.raw(tiny_images).argmax(axis=1)
    scaled = scaling.Scaling(1.3, None, (3.0, -1.0, 0.0, -2.0))
    fitted = Calibration(shift=scaled.shift, weights=scaled.weights)
    update_bundle(open_bundle(tiny_bundle), temperature=1.3, calibration=fitted, abstain_threshold=0.2)
    again = Classifier.open(tiny_bundle)
    p = again.predict(tiny_images)
    assert (again.named(p) == answers).all() and (p.argmax(axis=1) != answers).any()
    for found, row, answer in zip(again.decide(p), p, answers):
        assert found.label == own.labels[answer] and found.confidence == pytest.approx(row[answer])
        assert found.abstained == (row[answer] < 0.2)


def test_what_is_fitted_is_what_is_applied(tiny_bundle, tiny_images):
    classifier = Classifier.open(tiny_bundle)
    raw = classifier.raw(tiny_images)
    fitted = Calibration((1.0, 2.0, 0.5, 1.0), (0.0, -1.0, 0.25, 3.0), "aps")
    update_bundle(open_bundle(tiny_bundle), temperature=1.7, calibration=fitted, conformal_quantile=0.6)
    again = Classifier.open(tiny_bundle)
    wanted = scaling.Scaling(1.7, fitted.scale, fitted.shift).apply(classifier.scores.logits(raw))
    np.testing.assert_allclose(again.predict(tiny_images), np.exp(wanted), atol=1e-6)
    for found, row in zip(again.decide(again.predict(tiny_images)), np.exp(wanted)):
        scores = decision.set_scores(row[None], score="aps")[0]
        assert set(found.prediction_set) == {again.labels[c] for c in np.flatnonzero(scores <= 0.6)}


def test_calibration_never_looks_like_a_difference_between_float_and_deployed(
    tiny_bundle, tiny_float, tmp_path
):
    import cv2

    rng = np.random.default_rng(0)
    for label in ("akiec", "bcc", "mel", "nv"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(6):
            cv2.imwrite(
                str(tmp_path / "images" / label / f"{i}.png"), rng.integers(0, 256, (40, 40, 3), np.uint8)
            )
    labels, parent = tmp_path / "labels.txt", tmp_path / "float.bundle"
    labels.write_text("akiec\nbcc\nmel\nnv\n")
    (tmp_path / "float.tflite").write_bytes(tiny_float)
    making.adopt(tmp_path / "float.tflite", parent, labels=labels)
    before, _ = judging.verify(tiny_bundle, data=str(tmp_path / "images"), against=parent)
    update_bundle(open_bundle(tiny_bundle), calibration=Calibration(shift=(4.0, 0.0, 0.0, -4.0)))
    after, _ = judging.verify(tiny_bundle, data=str(tmp_path / "images"), against=parent)
    assert after["agreement"]["xnnpack"] >= before["agreement"]["xnnpack"] - 0.1
    record = calibrate(tiny_bundle, data=str(tmp_path / "images"), score="raps", by_class=True)
    json.dumps(record)
    assert len(record["class_quantiles"]) == 4 and record["class_coverage"]["mel"]["n"] == 6

"""Statistics against SciPy, statsmodels and scikit-learn, degenerate tables included."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edge_derm.errors import DataError, GateError
from edge_derm.trust import calibration, intervals, parity, readers, roc
from edge_derm.trust.evaluate import balanced, confusion, cross_fit, evaluate, per_class

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
proportions = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")
tables = pytest.importorskip("statsmodels.stats.contingency_tables")
multitest = pytest.importorskip("statsmodels.stats.multitest")

scores_and_truth = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=80)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_equals_statsmodels(successes, n):
    assume(successes <= n)
    found = intervals.proportion(successes, n)
    low, high = proportions.proportion_confint(successes, n, method="wilson")
    assert found["value"] == successes / n
    assert abs(found["low"] - low) < 1e-9 and abs(found["high"] - high) < 1e-9


@settings(max_examples=200, deadline=None)
@given(scores_and_truth)
def test_areas_equal_scikit_learn_ties_included(pairs):
    scores, true = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    found = roc.auroc(scores, true)
    if true.all() or not true.any():
        assert found["value"] is None and found["reason"]
    else:
        assert abs(found["value"] - metrics.roc_auc_score(true, scores)) < 1e-9
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    if true.any():
        assert abs(roc.average_precision(scores, true) - metrics.average_precision_score(true, scores)) < 1e-9


def test_delong_variance_equals_the_definition_by_placements():
    rng = np.random.default_rng(0)
    scores, true = rng.integers(0, 20, 60).astype(float), rng.random(60) < 0.4
    p, q = scores[true], scores[~true]
    wins = (p[:, None] > q) + 0.5 * (p[:, None] == q)
    variance = wins.mean(1).var(ddof=1) / len(p) + wins.mean(0).var(ddof=1) / len(q)
    found = roc.auroc(scores, true)
    assert abs(found["value"] - wins.mean()) < 1e-12
    assert abs((found["high"] - found["value"]) - stats.norm.ppf(0.975) * math.sqrt(variance)) < 1e-9


@settings(max_examples=100, deadline=None)
@given(scores_and_truth)
def test_the_curve_has_the_area(pairs):
    scores, true = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    assume(true.any() and not true.all())
    curve = roc.curve(scores, true)
    area = np.trapezoid(curve["sensitivity"], curve["false_positive_rate"])
    assert abs(area - metrics.roc_auc_score(true, scores)) < 1e-9


@settings(max_examples=200, deadline=None)
@given(scores_and_truth, st.floats(0.05, 1))
def test_thresholds_keep_what_they_promise(pairs, wanted):
    scores, true = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    assume(true.any() and not true.all())
    at = roc.choose_threshold(scores, true, "sensitivity", wanted)
    assert (scores[true] >= at).mean() >= wanted - 1e-9
    above = scores[scores > at]
    assert not len(above) or (scores[true] >= above.min()).mean() < wanted
    assert (scores[~true] < roc.choose_threshold(scores, true, "specificity", wanted)).mean() >= wanted - 1e-9
    best = max((scores[true] >= t).mean() + (scores[~true] < t).mean() for t in np.unique(scores))
    youden = roc.choose_threshold(scores, true, "youden")
    assert abs((scores[true] >= youden).mean() + (scores[~true] < youden).mean() - best) < 1e-9


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_statsmodels_exact(b, c):
    expected = tables.mcnemar([[5, b], [c, 7]], exact=True).pvalue if b + c else 1.0
    assert abs(readers.mcnemar(b, c) - expected) < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4000), st.integers(0, 4000))
@example(1400, 1600)
@example(20_000, 20_400)
@example(0, 5000)
@example(5000, 5000)
def test_mcnemar_of_thousands_is_scipys_binomial_test(b, c):
    expected = stats.binomtest(min(b, c), b + c, 0.5).pvalue if b + c else 1.0
    # SciPy says 0 from about 1e-290 on.
    assert readers.mcnemar(b, c) == pytest.approx(expected, rel=1e-9, abs=1e-200)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_statsmodels(values):
    assert np.allclose(readers.holm(values), multitest.multipletests(values, method="holm")[1], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**31))
def test_scores_of_probabilities_equal_scikit_learn(classes, n, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n)
    y, d = rng.integers(0, classes, n), p.argmax(1)
    onehot = np.eye(classes)[y]
    assert abs(calibration.brier(p, y) - ((p - onehot) ** 2).sum(1).mean()) < 1e-9
    assert abs(calibration.nll(p, y) - metrics.log_loss(y, p, labels=range(classes))) < 1e-9
    assert np.array_equal(confusion(d, y, classes), metrics.confusion_matrix(y, d, labels=range(classes)))
    recalls = [np.mean(d[y == c] == c) for c in range(classes) if (y == c).any()]
    assert abs(balanced(d, y) - np.mean(recalls)) < 1e-12


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.9, 0.6, 0.55])
    correct = np.array([True, False, True, True])
    # Fifteen bins: 0.95 and 0.9 lie in [14/15, 1] and [13/15, 14/15); 0.6 in [9/15, 10/15); 0.55 in [8/15, 9/15).
    assert calibration.ece(confidence, correct) == pytest.approx((0.05 + 0.9 + 0.4 + 0.45) / 4)
    assert calibration.ece(np.ones(3), np.ones(3, bool)) == 0.0
    assert calibration.adaptive_ece(confidence, correct, bins=2) == pytest.approx(
        (abs(2 - 1.15) + abs(1 - 1.85)) / 4
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 400), st.integers(0, 2**31))
def test_the_debiased_calibration_error_equals_drawing_the_bins_again(bins, n, seed):
    """As Kumar, Liang and Ma have it: twice the error, less the mean of those of accuracies drawn again."""
    rng = np.random.default_rng(seed)
    stated = rng.random(n)
    right = rng.random(n) < stated ** rng.uniform(0.5, 2)
    place = np.minimum((stated * bins).astype(int), bins - 1)
    inside = [place == b for b in range(bins) if (place == b).any()]
    weight = np.array([which.mean() for which in inside])
    accuracy = np.array([right[which].mean() for which in inside])
    told = np.array([stated[which].mean() for which in inside])
    spread = np.sqrt(accuracy * (1 - accuracy) / [which.sum() for which in inside])
    again = np.abs(rng.normal(accuracy, spread, (20_000, len(inside))) - told) @ weight
    expected = 2 * np.abs(accuracy - told) @ weight - again.mean()
    found = calibration.ece_debiased(stated, right, bins=bins)
    assert found == pytest.approx(max(0.0, expected), abs=6 * again.std() / math.sqrt(20_000) + 1e-12)
    assert 0 <= found <= calibration.ece(stated, right, bins=bins) + 1e-12


def test_what_chance_adds_to_a_calibration_error_is_taken_off_in_part():
    """A perfect model's error shrinks, not below what it is; one that is off by 0.1 everywhere keeps nearly all of it."""
    rng = np.random.default_rng(1)
    stated = rng.uniform(0.1, 0.9, (200, 1000))
    drawn = rng.random(stated.shape)

    def means(right):
        both = [(calibration.ece(s, r), calibration.ece_debiased(s, r)) for s, r in zip(stated, right)]
        return np.mean(both, axis=0)

    plain, less = means(drawn < stated)
    assert 0 < less < 0.65 * plain and plain == pytest.approx(calibration.noise(stated[0]), rel=0.05)
    plain, less = means(drawn < stated - 0.1)
    assert less < plain and less == pytest.approx(0.1, abs=0.005)
    one = np.array([0.25])
    assert calibration.ece_debiased(one, np.array([True])) == 0.75  # nothing is known of its noise
    assert math.isnan(calibration.ece_debiased(one[:0], np.array([], bool)))


def test_per_class_figures_by_hand():
    called, true = np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 1, 0, 0], bool)
    row = per_class(called, true)
    assert [row[k]["value"] for k in ("sensitivity", "specificity", "ppv", "npv")] == [
        1 / 2,
        2 / 3,
        1 / 2,
        2 / 3,
    ]
    assert row["f1"] == 0.5 and row["sensitivity"]["n"] == 2


def test_the_bootstrap_draws_lesions_whole():
    """Perfectly correlated pairs: the interval is that of half as many images, wider by √2."""
    rng = np.random.default_rng(0)
    lesion = rng.random(200) < 0.7
    values = np.repeat(lesion, 2).astype(float)
    paired = intervals.resample(
        lambda i: float(values[i].mean()), [str(k) for k in np.repeat(np.arange(200), 2)]
    )
    single = intervals.resample(lambda i: float(values[i].mean()), [str(k) for k in range(400)])
    ratio = (paired["high"] - paired["low"]) / (single["high"] - single["low"])
    assert 1.25 < ratio < 1.6


def random_case(n=120, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    p = rng.dirichlet(np.ones(classes), n) + 0.8 * np.eye(classes)[y] * rng.random((n, 1))
    return p / p.sum(1, keepdims=True), y


def run(p, y, labels=("mel", "nv", "bkl"), **options):
    n = len(y)
    return evaluate(
        p,
        y,
        labels,
        groups=[str(i) for i in range(n)],
        image_ids=[f"i{i}" for i in range(n)],
        meta=[{"age": str(20 + i % 60), "sex": "female"} for i in range(n)],
        **options,
    )


def test_an_evaluation_is_json_with_every_key_and_repeats():
    p, y = random_case()
    record = run(p, y, positive="mel", negative="nv")
    assert {
        "accuracy",
        "balanced_accuracy",
        "per_class",
        "auroc",
        "ece",
        "brier",
        "operating_points",
        "readers",
    } <= set(record)
    for key in ("accuracy", "balanced_accuracy", "ece", "brier"):
        assert (
            set(record[key]) == {"value", "low", "high", "n"} and record[key]["low"] <= record[key]["value"]
        )
    assert json.dumps(record, allow_nan=False) == json.dumps(
        run(p, y, positive="mel", negative="nv"), allow_nan=False
    )
    assert record["task"]["n"] == int((y < 2).sum())
    assert set(record["subgroups"]) == {"age", "sex"}


@pytest.mark.parametrize("targets", [[0], [0, 0, 0, 0], [2, 2], [0, 1]])
def test_degenerate_tables_give_reasons_and_no_nan(targets):
    y = np.array(targets)
    record = run(np.full((len(y), 3), 1 / 3), y, positive="mel", negative="nv")
    json.dumps(record, allow_nan=False)
    if len(set(targets)) == 1:
        assert all(area["value"] is None and area["reason"] for area in record["auroc"].values())


def test_no_image_helps_to_choose_its_own_threshold():
    """With every score unique to its class label's noise, in-sample Youden would be perfect; cross-fitted it is not."""
    rng = np.random.default_rng(1)
    accuracies = []
    for seed in range(30):
        score, true = rng.random(40), rng.random(40) < 0.5
        called = cross_fit(score, true, [str(i) for i in range(40)], "youden", None, seed)
        accuracies.append((called == true).mean())
    assert abs(np.mean(accuracies) - 0.5) < 0.06


def test_unknown_labels_are_refused():
    p, y = random_case()
    for options in ({"positive": "cat"}, {"positive": "mel", "negative": "mel"}, {"negative": "nv"}):
        with pytest.raises(DataError) as caught:
            run(p, y, **options)
        assert caught.value.code == "label-unknown"


def test_readers_are_compared_on_the_images_both_saw(tmp_path):
    p, y = random_case(200)
    lines = ["reader,image_id,decision"]
    for i in range(0, 150):
        if y[i] < 2:
            lines += [f"anna,i{i},{'mel' if y[i] == 0 else 'nv'}", f"bert,i{i},1"]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    compared = run(p, y, positive="mel", negative="nv", readers=tmp_path / "r.csv")["readers"]
    assert set(compared) == {"anna", "bert", "pooled"}
    assert compared["anna"]["sensitivity"]["value"] == 1 and compared["anna"]["specificity"]["value"] == 1
    assert compared["bert"]["sensitivity"]["value"] == 1 and compared["bert"]["specificity"]["value"] == 0
    assert (
        compared["anna"]["n"] == int((y[:150] < 2).sum())
        and compared["pooled"]["n"] == 2 * compared["anna"]["n"]
    )
    assert compared["anna"]["mcnemar"]["all"]["p_holm"] >= compared["anna"]["mcnemar"]["all"]["p"]


@pytest.mark.parametrize(
    "text, code",
    [
        ("a,b\n", "readers-columns"),
        ("reader,image_id,decision\n", "readers-empty"),
        ("reader,image_id,decision\nx,i0,perhaps\n", "readers-decision"),
        ("reader,image_id,decision\nx,i0,1\nx,i0,0\n", "readers-duplicate"),
        (None, "readers-missing"),
    ],
)
def test_bad_reader_tables_are_refused_by_name(tmp_path, text, code):
    if text is not None:
        (tmp_path / "r.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        readers.read_decisions(tmp_path / "r.csv", "mel", "nv")
    assert caught.value.code == code


def test_parity_by_hand():
    parent = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    near = np.array([[0.8, 0.2], [0.3, 0.7], [0.45, 0.55], [0.3, 0.7]])
    record = parity.compare(
        {"xnnpack": near, "reference": parent}, parent, np.array([0, 1, 0, 0]), groups=list("abcd")
    )
    assert record["agreement"] == {"xnnpack": 0.75, "reference": 1.0}
    assert record["accuracy_float"] == 0.75 and record["accuracy_deployed"] == 0.5
    assert record["max_abs_probability_error"] == pytest.approx(0.15)
    assert record["disagreements"]["xnnpack"] == [2]
    alone = parity.compare(
        {"xnnpack": near, "reference": parent}, None, np.array([0, 1, 0, 0]), groups=list("abcd")
    )
    assert alone["accuracy_float"] is None and alone["agreement"] == {"xnnpack": None, "reference": None}


def test_gates_pass_fail_and_refuse(tmp_path):
    file = tmp_path / "gate.toml"
    record = {
        "agreement": {"xnnpack": 0.99, "reference": 0.97},
        "accuracy_float": 0.8,
        "accuracy_deployed": 0.79,
        "max_abs_probability_error": 0.1,
    }
    file.write_text("min_agreement = 0.96\nmax_accuracy_drop = 0.02\n")
    assert parity.check_gate(record, parity.read_gate(file)) is None
    file.write_text("min_agreement = 0.985\nmin_accuracy = 0.9\n")
    failed = parity.check_gate(record, parity.read_gate(file))
    assert "min_agreement: expected at least 0.985, got 0.97" in str(failed) and "min_accuracy" in str(failed)
    unmeasured = parity.check_gate(
        {**record, "agreement": {"xnnpack": None, "reference": None}}, {"min_agreement": 0.5}
    )
    assert unmeasured is not None and "not measured" in str(unmeasured)
    for text, code in (
        ("agreement = 1", "gate-unknown"),
        ("min_accuracy = 'x'", "gate-value"),
        ("=", "gate-broken"),
        ("", "gate-empty"),
    ):
        file.write_text(text)
        with pytest.raises(GateError) as caught:
            parity.read_gate(file)
        assert caught.value.code == code

"""Operating points, readers, subgroups, skin tone and float against deployed: independent oracles, degenerate tables."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.data import skin
from edge_derm.trust import card, intervals, paired, parity, readers, roc, subgroups, task
from edge_derm.trust.evaluate import evaluate, figures, kept_promises

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
tables = pytest.importorskip("statsmodels.stats.contingency_tables")
proportions = pytest.importorskip("statsmodels.stats.proportion")


def case(n=240, classes=3, seed=0, skill=0.8):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    p = rng.dirichlet(np.ones(classes), n) + skill * np.eye(classes)[y] * rng.random((n, 1))
    return p / p.sum(1, keepdims=True), y


def run(p, y, **options):
    n, labels = len(y), ("mel", "nv", "bkl")
    settings_ = {"groups": [str(i) for i in range(n)], "image_ids": [f"i{i}" for i in range(n)], **options}
    return evaluate(p, y, labels, **settings_)


def test_thresholds_come_from_the_validation_images_and_from_nothing_else():
    p, y = case(seed=1)
    other, truth = case(seed=2)
    record = run(p, y, positive="mel", negative="nv", chooser=(other, truth))
    pair = np.isin(truth, [0, 1])
    score = other[pair, 0] / (other[pair, 0] + other[pair, 1])
    false, true, thresholds = metrics.roc_curve(truth[pair] == 0, score, drop_intermediate=False)
    assert record["operating_points"]["youden"]["threshold"] == pytest.approx(
        thresholds[(true - false).argmax()]
    )
    assert record["task"]["chosen_on"] == "the validation part"
    judged = np.isin(y, [0, 1])
    called = (
        p[judged, 0] / (p[judged, 0] + p[judged, 1])
        >= record["operating_points"]["sensitivity_90%"]["threshold"]
    )
    found = record["operating_points"]["sensitivity_90%"]["sensitivity"]["value"]
    assert found == pytest.approx(metrics.recall_score(y[judged] == 0, called), abs=1e-9)
    # Judged images may change as they like: the thresholds stay.
    again = run(p[::-1].copy(), y, positive="mel", negative="nv", chooser=(other, truth))
    for name, point in record["operating_points"].items():
        assert again["operating_points"][name]["threshold"] == point["threshold"]


def test_several_images_of_a_lesion_count_as_what_they_are():
    hits = np.repeat(np.random.default_rng(0).random(100) < 0.7, 4)
    groups = [str(i) for i in np.repeat(np.arange(100), 4)]
    wide, narrow = intervals.share(hits, groups), intervals.share(hits, None)
    assert wide["value"] == narrow["value"] and wide["n"] == narrow["n"] == 400
    assert 1.6 < (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) < 2.4
    low, high = proportions.proportion_confint(int(hits.sum()), 400, method="wilson")
    assert (narrow["low"], narrow["high"]) == pytest.approx((low, high), abs=1e-9)
    certain = intervals.share(np.ones(8, bool), ["a", "a", "b", "b", "c", "c", "d", "d"])
    assert certain["high"] == 1 and certain["low"] == pytest.approx(intervals.proportion(4, 4)["low"])


def study(seed=0, images=60, people=4):
    rng = np.random.default_rng(seed)
    truth = {f"i{k}": bool(rng.random() < 0.4) for k in range(images)}
    model = {i: t ^ (rng.random() < 0.2) for i, t in truth.items()}
    said = {
        f"r{k}": {i: bool(t ^ (rng.random() < 0.3)) for i, t in truth.items() if rng.random() < 0.9}
        for k in range(people)
    }
    return said, {i: bool(m) for i, m in model.items()}, truth


def test_every_row_of_a_reader_study_is_statsmodels_mcnemar_and_holm():
    said, model, truth = study()
    rows = readers.compare_readers(said, model, truth)
    raw = []
    for name, row in rows.items():
        if name == "pooled":
            decided = {}
            for i in truth:
                votes = [s[i] for s in said.values() if i in s]
                if votes:
                    decided[i] = sum(votes) >= len(votes) / 2
        else:
            decided = said[name]
        for part, keep in (("positives", (True,)), ("negatives", (False,)), ("all", (True, False))):
            table = np.zeros((2, 2), int)
            for i, d in decided.items():
                if truth[i] in keep:
                    table[int(model[i] == truth[i]), int(d == truth[i])] += 1
            p = tables.mcnemar(table, exact=True).pvalue if table[0, 1] + table[1, 0] else 1.0
            assert row["mcnemar"][part]["p"] == pytest.approx(p, abs=1e-9)
            assert row["mcnemar"][part]["only_model_right"] == table[1, 0]
            raw.append(row["mcnemar"][part]["p"])
    flat = [test["p_holm_study"] for row in rows.values() for test in row["mcnemar"].values()]
    np.testing.assert_allclose(flat, multitest.multipletests(raw, method="holm")[1], atol=1e-9)
    assert readers.about(rows)["tests"] == len(raw) == 15


def test_pooled_readers_are_less_certain_than_their_number_of_decisions():
    """Readers who differ, lesions that differ: Wilson over all decisions would be far too narrow."""
    rng = np.random.default_rng(1)
    skill = rng.uniform(0.4, 0.95, 12)
    hits = (rng.random((12, 80)) < skill[:, None]).astype(float)
    found = readers.two_way(hits, [str(i) for i in range(80)])
    wilson = intervals.proportion(int(hits.sum()), hits.size)
    assert found["value"] == wilson["value"] and found["n"] == hits.size
    assert found["high"] - found["low"] > 2 * (wilson["high"] - wilson["low"])
    # One reader, each image its own lesion: the plain bootstrap of a share.
    one = readers.two_way(hits[:1], [str(i) for i in range(80)], resamples=4000)
    spread = 1.96 * np.sqrt(one["value"] * (1 - one["value"]) / 80)
    assert one["high"] - one["low"] == pytest.approx(2 * spread, rel=0.1)


@pytest.mark.parametrize("positive", [True, False])
def test_a_study_with_one_kind_of_image_has_reasons_not_numbers(positive):
    truth = {f"i{k}": positive for k in range(5)}
    rows = readers.compare_readers({"a": truth, "b": dict(truth)}, truth, truth)
    missing = "specificity" if positive else "sensitivity"
    assert all(row[missing]["value"] is None for row in rows.values())
    assert all(test["p"] == 1.0 for row in rows.values() for test in row["mcnemar"].values())
    assert readers.compare_readers({"a": {"elsewhere": True}}, {}, truth) == {}


def test_published_points_are_shown_only_on_request_and_with_their_caveat():
    p, y = case()
    assert run(p, y, positive="mel", negative="nv")["task"]["reference"] is None
    told = run(p, y, positive="mel", negative="nv", reference=True)["task"]["reference"]
    assert told == task.REFERENCE and "not re-checked" in told["source"] and "never tested" in told["caveat"]


def test_a_subgroup_has_its_own_figures_and_sizes():
    p, y = case(300)
    meta = [
        {"sex": "female" if i % 3 else "male", "device": f"d{i % 2}", "image": str(i)} for i in range(300)
    ]
    record = run(p, y, meta=meta, positive="mel", negative="nv")
    right = p.argmax(1) == y
    for value, start in (("male", [True, False, False]), ("female", [False, True, True])):
        inside = np.resize(start, 300)
        row = record["subgroups"]["sex"][value]
        assert row["n"] == inside.sum() and row["value"] == pytest.approx(right[inside].mean())
        pair = inside & (y < 2)
        score = p[pair, 0] / (p[pair, 0] + p[pair, 1])
        assert row["auroc"]["value"] == pytest.approx(metrics.roc_auc_score(y[pair] == 0, score), abs=1e-9)
        assert row["sensitivity"]["n"] == (inside & (y == 0)).sum()
    assert set(record["subgroups"]) == {"sex", "device"} and set(record["shift"]) == {"sex", "device"}
    json.dumps(record, allow_nan=False)


def test_shift_is_found_where_it_is_and_not_where_it_is_not():
    rng = np.random.default_rng(0)
    meta = [{"device": "a" if i % 2 else "b"} for i in range(400)]
    worse = rng.random(400) < np.where(np.arange(400) % 2, 0.9, 0.6)
    row = subgroups.shift(worse, meta)["device"]
    assert row["lowest"] == "b" and row["highest"] == "a" and row["p"] < 0.002
    found = [subgroups.shift(rng.random(60) < 0.7, meta[:60], seed=k)["device"]["p"] for k in range(60)]
    assert 0.2 < np.mean(found) and np.mean(np.array(found) < 0.05) < 0.15
    same = [{"device": "a"}] * 50
    assert subgroups.shift(worse[:50], same) == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_lab_is_opencvs(pixels):
    rgb = np.array(pixels, np.uint8)
    wanted = cv2.cvtColor((rgb[None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    np.testing.assert_allclose(skin.lab(rgb), wanted, atol=0.3)


def test_skin_tone_is_that_of_the_border_and_ignores_vignette_hair_and_lesion():
    images = {}
    for name, colour in (
        ("very light", (240, 215, 205)),
        ("intermediate", (200, 155, 125)),
        ("dark", (105, 70, 55)),
    ):
        image = np.full((100, 100, 3), colour, np.uint8)
        images[name] = skin.typology_angles(image[None])[0]
        assert skin.tone(images[name]) == name
        image[30:70, 30:70] = (40, 20, 15)  # a lesion
        image[:6, :30] = 0  # a vignette
        image[3::25] = (30, 25, 20)  # hairs
        assert skin.typology_angles(image[None])[0] == pytest.approx(images[name], abs=3)
    assert images["very light"] > images["intermediate"] > images["dark"]
    assert skin.tone(skin.typology_angles(np.zeros((1, 50, 50, 3), np.uint8))[0]) == "unknown"


def test_every_metric_twice_is_scikit_learns_twice():
    p, y = case(200, seed=3)
    q, _ = case(200, seed=4)
    q = 0.7 * p + 0.3 * q
    found = paired.compare_metrics(p, q, y, "abc", groups=[str(i) for i in range(200)], resamples=50)
    for side, scores in (("float", p), ("deployed", q)):
        decided = scores.argmax(1)
        wanted = {
            "accuracy": metrics.accuracy_score(y, decided),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, decided),
            "nll": metrics.log_loss(y, scores),
            "brier": metrics.brier_score_loss(y == 0, scores[:, 0]) * 0
            + ((scores - np.eye(3)[y]) ** 2).sum(1).mean(),
            "sensitivity.b": metrics.recall_score(y == 1, decided == 1),
            "specificity.b": metrics.recall_score(y != 1, decided != 1),
            "auroc.c": metrics.roc_auc_score(y == 2, scores[:, 2]),
            "average_precision.a": metrics.average_precision_score(y == 0, scores[:, 0]),
        }
        for name, value in wanted.items():
            assert found[name][side]["value"] == pytest.approx(value, abs=1e-9), name
    for row in found.values():
        gap = row["deployed"]["value"] - row["float"]["value"]
        assert row["difference"]["value"] == pytest.approx(gap, abs=1e-12)


def test_a_paired_interval_knows_what_both_have_in_common():
    p, y = case(300, seed=5, skill=0.3)
    q = p.copy()
    q[:6] = q[:6, ::-1]
    row = paired.compare_metrics(p, q, y, "abc", groups=[str(i) for i in range(300)], resamples=300)[
        "accuracy"
    ]
    alone = row["float"]["high"] - row["float"]["low"]
    assert row["difference"]["high"] - row["difference"]["low"] < alone / 3
    same = paired.compare_metrics(p, p, y, "abc", groups=[str(i) for i in range(300)], resamples=20)
    assert all(
        r["difference"]["value"] == r["difference"]["low"] == r["difference"]["high"] == 0
        for r in same.values()
    )


@pytest.mark.parametrize("targets", [[0], [0, 0, 0], [2, 2, 1]])
def test_degenerate_tables_are_undefined_twice_over(targets):
    y = np.array(targets)
    p = np.full((len(y), 3), 1 / 3)
    found = paired.compare_metrics(p, p, y, "abc", groups=[str(i) for i in range(len(y))], resamples=20)
    json.dumps(found, allow_nan=False)
    assert found["auroc.a"]["difference"]["value"] is None or len(set(targets)) > 1
    json.dumps(figures(p, y, "abc", [str(i) for i in range(len(y))]), allow_nan=False)


def test_gates_hold_the_drop_of_every_metric(tmp_path):
    p, y = case(200, seed=6)
    q = np.roll(p, 1, axis=1) * 0.6 + p * 0.4
    record = parity.compare(
        {"xnnpack": q, "reference": q}, p, y, groups=[str(i) for i in range(200)], labels="abc"
    )
    right = [(v.argmax(1) == y).mean() for v in (p, q)]
    limits = {
        "max_balanced_accuracy_drop": 0.0,
        "max_sensitivity_drop": 0.0,
        "max_auroc_drop": 0.0,
        "max_nll_rise": 0.0,
        "max_accuracy_drop_bound": float(right[0] - right[1]),
    }
    text = str(parity.check_gate(record, limits))
    assert all(name in text for name in limits)  # the bound lies past the drop itself
    assert parity.check_gate(record, {name: 5.0 for name in limits}) is None
    alone = parity.compare({"xnnpack": q, "reference": q}, None, y, groups=[str(i) for i in range(200)])
    assert "not measured" in str(parity.check_gate(alone, {"max_auroc_drop": 0.1}))


def test_promises_are_checked_on_the_images_judged():
    targets, decided = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1])
    sets, abstained = [("a",), ("a", "b"), (), ("b",)], [False, False, True, False]
    told = kept_promises(sets, abstained, decided, targets, "ab", groups=list("wxyz"))
    assert told["coverage"] == intervals.proportion(2, 4) and told["mean_set_size"] == 1
    assert told["answered"] == intervals.proportion(3, 4) and told["risk"] == intervals.proportion(1, 3)
    off = kept_promises([None] * 4, [None] * 4, decided, targets, "ab", groups=list("wxyz"))
    assert set(off.values()) == {None}


def test_the_card_keeps_intervals_and_sizes():
    p, y = case(200)
    record = {"part": "test", "images": 200, **run(p, y, positive="mel", meta=[{"sex": "male"}] * 200)}
    told = card.summary(record, data="somewhere")
    json.dumps(told, allow_nan=False)
    assert told["accuracy"] == record["accuracy"] and told["subgroups"]["sex"]["male"]["n"] == 200
    assert set(told["task"]["operating_points"]["youden"]) == {"sensitivity", "specificity", "threshold"}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_the_area_alone_is_the_area_with_its_interval(found):
    score, true = np.array([s for s, _ in found], float), np.array([t for _, t in found])
    assert roc.area(score, true) == roc.auroc(score, true)["value"]

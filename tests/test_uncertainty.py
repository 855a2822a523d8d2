"""What measures of uncertainty are worth: against scikit-learn, SciPy and brute force; and the command on real bundles."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictures import write_classes
from edge_derm import calibrating, doubting, using
from edge_derm.bundle import Dropout, open_bundle, update_bundle
from edge_derm.errors import BundleError, DataError
from edge_derm.runtime import Classifier, known
from edge_derm.runtime.features import Features
from edge_derm.runtime.measures import measures
from edge_derm.runtime.sampling import Sampling
from edge_derm.trust import distance, uncertainty

stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
skm = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")

pairs = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(pairs)
def test_risks_are_the_mean_over_every_order_of_ties(found):
    """Written out: a tie of m images with w wrong gives its k-th image a risk of w / m on average."""
    score, wrong = np.array([s for s, _ in found], float), np.array([w for _, w in found])
    expected, total = [], 0.0
    for value in sorted(set(score)):
        inside = wrong[score == value]
        for _ in inside:
            total += inside.mean()
            expected.append(total / (len(expected) + 1))
    np.testing.assert_allclose(uncertainty.risks(score, wrong), expected, atol=1e-12)
    assert uncertainty.aurc(score, wrong) == pytest.approx(np.mean(expected), abs=1e-12)
    assert uncertainty.risk_at(score, wrong, 1.0) == pytest.approx(wrong.mean(), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(pairs)
def test_error_detection_is_scikit_learns_auroc_where_there_is_one(found):
    score, wrong = np.array([s for s, _ in found], float), np.array([w for _, w in found])
    row = uncertainty.judge(score, wrong, [str(i) for i in range(len(score))], resamples=4)
    if wrong.any() and not wrong.all():
        assert row["errors"]["value"] == pytest.approx(skm.roc_auc_score(wrong, score), abs=1e-9)
    else:
        assert row["errors"]["value"] is None
    assert row["aurc_best"] <= row["aurc"] + 1e-12


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_rank_agreement_is_scipys_spearman(found):
    a, b = np.array(found, float).T
    value = uncertainty.spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert value is None
    else:
        assert value == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)


def test_a_score_that_knows_finds_every_error_and_one_that_does_not_finds_none():
    wrong = np.repeat([False, True], [80, 20])
    known = uncertainty.judge(wrong.astype(float), wrong, [str(i) for i in range(100)], resamples=20)
    assert known["errors"]["value"] == 1 and known["risk_at_80"]["value"] == 0
    assert known["reduction_at_80"]["value"] == 1 and known["aurc"] == known["aurc_best"]
    blind = uncertainty.judge(np.zeros(100), wrong, [str(i) for i in range(100)], resamples=20)
    assert blind["errors"]["value"] == 0.5 and blind["risk_at_80"]["value"] == pytest.approx(0.2)
    assert blind["reduction_at_80"]["value"] == pytest.approx(0)


def test_distances_are_scikit_learns_neighbours_and_the_mahalanobis_written_out():
    rng = np.random.default_rng(0)
    known, y, new = rng.normal(size=(200, 6)) + 2, rng.integers(0, 3, 200), rng.normal(size=(50, 6))
    found = distance.remember(known, y).distances(new)
    model = neighbors.NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(known)
    np.testing.assert_allclose(found["neighbours"], model.kneighbors(new)[0][:, 4], atol=1e-9)
    means = [known[y == c].mean(axis=0) for c in range(3)]
    covariance = sum((x - means[c])[:, None] * (x - means[c]) for x, c in zip(known, y)) / 200
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / 6 * np.eye(6)
    for x, value in zip(new, found["mahalanobis"]):
        wanted = min(np.sqrt((x - m) @ np.linalg.solve(covariance, x - m)) for m in means)
        assert value == pytest.approx(wanted, rel=1e-9)


def test_features_that_never_vary_have_a_distance_all_the_same():
    found = distance.remember(np.zeros((4, 3)), np.array([0, 0, 2, 2])).distances(np.ones((2, 3)))
    assert all(np.isfinite(value).all() for value in found.values())


def test_features_are_what_the_head_multiplies(tiny_bundle, tiny_images):
    bundle = open_bundle(tiny_bundle)
    found = Features(bundle).of(tiny_images)
    assert found.shape == (len(tiny_images), 16) and found.std() > 0
    assert Features(bundle).of(tiny_images[:0]).shape == (0, 16)


def test_stability_ends_at_all_passes():
    passes = np.random.default_rng(0).dirichlet(np.ones(4), (12, 30))
    wrong = np.arange(30) % 3 == 0
    rows = uncertainty.stability(passes, wrong, measures)
    assert [row["passes"] for row in rows] == [1, 2, 4, 8, 12]
    assert rows[0]["errors"]["variance"] == 0.5 and rows[0]["agreement"]["variance"] is None
    assert rows[-1]["agreement"]["entropy"] == pytest.approx(1)


def test_the_command_judges_every_way_of_sampling(tiny_bundle, tmp_path):
    update_bundle(open_bundle(tiny_bundle), dropout=Dropout(0.3, 2))
    own = write_classes(tmp_path / "own", ("akiec", "bcc", "mel", "nv", "cat"))
    call = [sys.executable, "-c", "from edge_derm.cli import main; main()", "uncertainty", str(tiny_bundle)]
    options = ["--data", str(own), "--ood", str(own), "--mc", "6", "--tta", "3", "--json", "-"]
    done = subprocess.run([*call, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["images"] == 32 and record["ood"]["images"] == 8  # the unknown class is the foreign one
    assert set(record["metrics"]) == {"plain", "mc", "tta", "mc_tta", "features"}
    asked = {"mc": 6, "tta": 3, "dropout": 0.3, "depth": 2, "ensemble": [], "seed": 0}
    assert record["sampling"] == asked
    assert [row["passes"] for row in record["stability"]] == [1, 2, 4, 6]
    dataset_pixels = doubting.own_images(open_bundle(tiny_bundle), str(own), "auto", 0)
    p = Classifier.open(tiny_bundle).predict(dataset_pixels.pixels(32))
    wrong = p.argmax(axis=1) != dataset_pixels.targets(("akiec", "bcc", "mel", "nv"))
    assert record["accuracy"] == pytest.approx(1 - wrong.mean())
    expected = skm.roc_auc_score(wrong, stats.entropy(p.astype(np.float64), axis=1))
    assert record["metrics"]["plain"]["entropy"]["errors"]["value"] == pytest.approx(expected, abs=1e-9)
    assert set(record["risk_coverage"]["best"]["possible"]) == {"coverage", "risk"}


def test_foreign_images_must_be_foreign(tiny_bundle, tmp_path):
    own = write_classes(tmp_path / "own", ("mel", "nv"), count=2)
    for call in (
        lambda: doubting.assess(tiny_bundle, data=str(own), ood=str(own)),
        lambda: doubting.own_images(
            open_bundle(tiny_bundle), str(write_classes(tmp_path / "o", ("a", "b"), 1)), "all", 0
        ),
    ):
        with pytest.raises(DataError) as refused:
            call()
        assert refused.value.code in ("ood-known", "labels-unknown")


def test_each_way_is_what_was_asked_for():
    ways = doubting.ways_to_sample(Sampling(8, 4, 0.2, 2, 5))
    assert {name: (way.mc, way.tta) for name, way in ways.items()} == {
        "plain": (0, 0), "mc": (8, 0), "tta": (0, 4), "mc_tta": (8, 4),
    }  # fmt: skip


def test_an_ensemble_is_judged_beside_its_members_and_of_one_model_twice_agrees_with_itself(
    tiny_bundle, tmp_path
):
    data = write_classes(tmp_path / "own", ("akiec", "bcc", "mel", "nv"), 6)
    other = tmp_path / "other.bundle"
    shutil.copytree(tiny_bundle, other)
    record = doubting.assess(tiny_bundle, data=str(data), tta=0, mc=0, ensemble=(other,))
    assert set(record["metrics"]) == {"plain", "ensemble", "features"}
    one, two = record["metrics"]["plain"]["entropy"], record["metrics"]["ensemble"]["entropy"]
    assert one["aurc"] == pytest.approx(two["aurc"])  # the same model twice says the same
    assert record["metrics"]["ensemble"]["variance"]["errors"]["value"] in (
        None,
        0.5,
    )  # and does not differ from itself
    assert record["sampling"]["ensemble"] == [str(other)]


def test_what_is_known_survives_eight_bits_and_the_bundle(tiny_bundle):
    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(size=(300, 16))) + 0.1
    stored = known.remember(features, 0.25)
    new = np.abs(rng.normal(size=(50, 16)))
    exact = known.neighbours(new, known.unit(features))
    np.testing.assert_allclose(stored.distances(new), exact, atol=0.02)
    update_bundle(open_bundle(tiny_bundle), parts={known.PART: (known.ROLE, stored.dumps())})
    again = known.Known.of(open_bundle(tiny_bundle))
    np.testing.assert_array_equal(again.distances(new), stored.distances(new))
    assert again.threshold == 0.25 and len(stored.dumps()) < 300 * 16 + 2000
    with pytest.raises(BundleError) as caught:
        again.distances(new[:, :5])
    assert caught.value.code == "known-broken"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no npz at all"])
def test_a_broken_list_of_what_is_known_is_refused_by_name(tiny_bundle, data):
    update_bundle(open_bundle(tiny_bundle), parts={known.PART: (known.ROLE, data)})
    with pytest.raises(BundleError) as caught:
        known.Known.of(open_bundle(tiny_bundle))
    assert caught.value.code == "known-broken"


def test_predict_calls_an_image_foreign_that_is_far_from_all_it_was_calibrated_on(tiny_bundle, tmp_path):
    """Blobs of one kind are known; a chessboard is not, and a bundle that was never calibrated says nothing."""
    rng = np.random.default_rng(1)
    for label in ("akiec", "bcc", "mel", "nv"):
        (tmp_path / "own" / label).mkdir(parents=True)
        for i in range(20):
            picture = np.full((32, 32, 3), 150, np.uint8)
            cv2.circle(picture, (16, 16), int(rng.integers(4, 12)), (90, 60, 40), -1)
            noisy = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "own" / label / f"{i}.png"), noisy)
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "board.png"), np.stack([board, 255 - board, board], axis=-1))
    own = sorted((tmp_path / "own").rglob("*.png"))
    before = using.predict(tiny_bundle, [tmp_path / "board.png"])[0]
    assert before["foreign"] is None and before["distance"] is None
    record = calibrating.calibrate(tiny_bundle, data=str(tmp_path / "own"), strange=0.05)
    assert record["foreign"]["known_images"] == 40
    told = using.predict(tiny_bundle, [tmp_path / "board.png", *own])
    assert told[0]["foreign"] and told[0]["distance"] > record["foreign"]["threshold"]
    assert np.mean([row["foreign"] for row in told[1:]]) <= 0.15
    views = using.predict(tiny_bundle, [tmp_path / "board.png"], tta=8)[0]
    assert views["foreign"] and views["distance"] == told[0]["distance"]

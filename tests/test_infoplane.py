"""The information plane: exact on cases written out, equal to independent estimators, honest about chance and about few images."""

import importlib.util
import json
import math
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from scipy.stats import kendalltau
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information
from sklearn.metrics.cluster._supervised import contingency_matrix

from edge_derm import choosing, cli
from edge_derm.bundle import Provenance
from edge_derm.data import open_dataset, split
from edge_derm.data.split import again, thin
from edge_derm.errors import DataError
from edge_derm.report import page
from edge_derm.runtime import Classifier
from edge_derm.trust import infoplane
from edge_derm.trust.intervals import jackknife

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TEN = np.arange(1000) % 10  # ten balanced classes


def one_hot(labels, classes=10):
    return np.eye(classes)[labels]


def wrong(share_wrong, others):
    """Decisions on ten balanced classes of 125 · others images each, wrong on a share, spread evenly over ``others`` classes."""
    y = np.arange(125 * others * 10) % 10
    decided = y.copy()
    for c in range(10):
        mine = np.flatnonzero(y == c)[: round(share_wrong * 125 * others)]
        decided[mine] = (c + 1 + np.arange(len(mine)) % others) % 10
    return y, decided


def test_a_constant_output_keeps_nothing_and_says_nothing():
    point = infoplane.place(infoplane.symbols(np.full((1000, 10), 0.1)), TEN)
    assert (point.i_xt, point.i_ty, point.bias, point.i_ty_corrected, point.symbols) == (0, 0, 0, 0, 1)
    assert point.h_y == pytest.approx(math.log2(10), abs=1e-12)


@pytest.mark.parametrize("bins", [2, 3, 10, 30])
def test_a_perfect_one_hot_output_says_all_of_ten_balanced_classes(bins):
    point = infoplane.place(infoplane.symbols(one_hot(TEN), bins=bins), TEN)
    assert point.i_xt == pytest.approx(3.3219280948873623, abs=1e-12)
    assert point.i_ty == pytest.approx(3.3219280948873623, abs=1e-12)


@pytest.mark.parametrize("others, bits", [(9, 2.4610), (6, 2.5265), (1, 2.8160)])
def test_one_hot_at_888_in_a_thousand_loses_the_entropy_of_its_errors(others, bits):
    """log₂ 10 − h(0.112) − 0.112 · log₂(classes that the errors go to), written out: nothing is estimated here."""
    y, decided = wrong(0.112, others)
    point = infoplane.place(infoplane.symbols(one_hot(decided)), y)
    h = -0.112 * math.log2(0.112) - 0.888 * math.log2(0.888)
    assert point.i_xt == pytest.approx(math.log2(10), abs=1e-9)
    assert point.i_ty == pytest.approx(math.log2(10) - h - 0.112 * math.log2(others), abs=1e-9)
    assert point.i_ty == pytest.approx(bits, abs=5e-5)


def test_the_published_point_of_888_in_a_thousand_holds_the_bias_of_a_thousand_images():
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        decided, hit = TEN.copy(), rng.permutation(1000)[:112]
        decided[hit] = (TEN[hit] + rng.integers(1, 10, 112)) % 10
        found.append(infoplane.place(infoplane.symbols(one_hot(decided)), TEN))
    assert np.mean([p.i_xt for p in found]) == pytest.approx(3.32, abs=0.005)
    assert np.mean([p.i_ty for p in found]) == pytest.approx(2.53, abs=0.02)
    assert np.mean([p.i_ty_corrected for p in found]) == pytest.approx(2.461, abs=0.03)


def test_probability_one_falls_in_the_last_bin_and_edges_go_up():
    p = np.array([[1.0, 0.0], [0.95, 0.05], [0.9, 0.1], [0.89, 0.11], [1 + 1e-6, -1e-6]])
    assert infoplane.symbols(p, bins=10).tolist() == [1, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "p, bins, code",
    [
        (np.array([[np.nan, 1.0]]), 3, "plane-probabilities"),
        (np.array([[-0.2, 1.2]]), 3, "plane-probabilities"),
        (np.array([0.2, 0.8]), 3, "plane-probabilities"),
        (np.empty((0, 3)), 3, "plane-probabilities"),
        (np.array([[0.5, 0.5]]), 1, "plane-bins"),
    ],
)
def test_what_is_no_probability_is_refused(p, bins, code):
    with pytest.raises(DataError) as caught:
        infoplane.symbols(p, bins=bins)
    assert caught.value.code == code and "expected" in str(caught.value) and "got" in str(caught.value)


pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(-2, 3)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=150)
@given(pairs)
def test_it_equals_counting_every_pair_by_hand_and_two_libraries(rows):
    n, joint = len(rows), Counter(rows)
    left, right = Counter(a for a, _ in rows), Counter(b for _, b in rows)
    by_hand = sum(c / n * math.log2(c * n / (left[a] * right[b])) for (a, b), c in joint.items())
    a, b = np.array(rows).T
    assert infoplane.mutual_information(a, b) == pytest.approx(by_hand, abs=1e-12)
    assert infoplane.mutual_information(a, b) == pytest.approx(
        mutual_info_score(a, b) / math.log(2), abs=1e-9
    )
    assert infoplane.entropy(a) == pytest.approx(scipy_entropy(list(left.values()), base=2), abs=1e-12)
    assert infoplane.mutual_information(a, b) == pytest.approx(infoplane.mutual_information(b, a), abs=1e-12)
    assert infoplane.mutual_information(a, b) <= min(infoplane.entropy(a), infoplane.entropy(b)) + 1e-12
    assert infoplane.mutual_information(a, a) == pytest.approx(infoplane.entropy(a), abs=1e-12)


edges = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0])


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(edges, edges, edges), min_size=1, max_size=40),
    st.integers(2, 8),
)
def test_symbols_are_the_distinct_tuples_of_bins(rows, bins):
    tuples = [tuple(min(math.floor(v * bins), bins - 1) for v in row) for row in rows]
    found = infoplane.symbols(np.array(rows), bins=bins)
    assert len(set(zip(found.tolist(), tuples))) == len(set(tuples)) == len(set(found.tolist()))


@pytest.mark.parametrize("kinds, classes, n", [(4, 3, 500), (23, 7, 512), (8, 7, 1000), (30, 2, 2000)])
def test_shuffled_labels_give_the_bias_of_theory(kinds, classes, n):
    """Against (K − 1)(L − 1) / (2 N ln 2), and against the exact mean over all shuffles (Vinh, Epps, Bailey 2010)."""
    rng = np.random.default_rng(0)
    t = rng.choice(kinds, n, p=rng.dirichlet(np.full(kinds, 5.0)))
    y = rng.integers(0, classes, n)
    told = infoplane.shuffled(t, y, repeats=400)
    exact = expected_mutual_information(contingency_matrix(t, y, sparse=True), n) / math.log(2)
    assert told["mean"] == pytest.approx(exact, rel=0.05)
    theory = infoplane.bias(len(set(t)), classes, n)
    assert told["mean"] == pytest.approx(theory, rel=0.15)
    assert told["low"] < theory < told["high"]


def test_with_more_symbols_than_images_carry_the_corrected_value_says_so():
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(7), 500), rng.integers(0, 7, 500)
    point = infoplane.describe(p, y, bins=30)
    assert point["i_ty"] > 2 and point["i_ty_corrected"] < 0  # nothing is known, and nothing is claimed
    assert point["shuffled"]["mean"] == pytest.approx(point["i_ty"], abs=0.05)


def test_a_class_is_known_as_well_as_its_column_says():
    y = np.repeat([0, 1, 2, 3], 250)
    decided = np.where(y == 3, 2, y)  # never says 3, calls it 2
    found = infoplane.by_class(infoplane.symbols(one_hot(decided, 4)), y, ["a", "b", "c", "d", "absent"])
    h = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert list(found) == ["a", "b", "c", "d"]
    assert found["a"].i_ty == pytest.approx(h, abs=1e-12)
    assert found["d"].i_ty == pytest.approx(
        h - 0.5, abs=1e-12
    )  # half of the images are a coin's toss between c and d


def test_leaving_out_gives_the_standard_error_of_a_mean_and_covers_an_entropy():
    x = np.random.default_rng(0).normal(size=200)
    told = jackknife(lambda i: float(x[i].mean()), [str(i) for i in range(200)], folds=200)
    assert (told["high"] - told["value"]) / 1.959964 == pytest.approx(
        x.std(ddof=1) / math.sqrt(200), rel=1e-6
    )
    p, inside = np.array([0.5, 0.3, 0.15, 0.05]), 0
    for seed in range(100):
        t = np.random.default_rng(seed).choice(4, 400, p=p)
        told = jackknife(lambda i: infoplane.entropy(t[i]), [str(i) for i in range(400)], seed=seed)
        inside += told["low"] <= scipy_entropy(p, base=2) <= told["high"]
    assert inside >= 88


@pytest.mark.parametrize("half", [20, 150, 900])
def test_a_saturating_curve_gives_back_its_ceiling_and_what_is_missing(half):
    n = np.array([50, 100, 200, 400])
    told = infoplane.saturation(n, 0.6 * n / (n + half), most=0.8)
    assert told["ceiling"] == pytest.approx(0.6, rel=0.01) and told["half"] == pytest.approx(half, rel=0.02)
    assert told["reached"] == pytest.approx(400 / (400 + half), rel=0.01)
    if half == 900:
        assert told["needed"] is None and "ten times" in told["reason"]
    else:
        assert told["missing"] == pytest.approx(max(0, 19 * half - 400), rel=0.02, abs=1)


@pytest.mark.parametrize(
    "n, bits, says", [([50, 50, 100], [0.1, 0.1, 0.2], "three"), ([50, 100, 200], [-0.1, 0, 0], "nothing")]
)  # fmt: skip
def test_a_curve_that_tells_nothing_is_not_followed(n, bits, says):
    bits = [0.0 if says == "nothing" else b for b in bits]
    told = infoplane.saturation(n, bits, most=0.8)
    assert told["needed"] is None and told["ceiling"] is None
    assert ("three" if says == "three" else "knows anything") in told["reason"]


def row(step, bits):
    return {"step": step, "epoch": step / 10, "i_xt": 2.0, "i_ty_corrected": bits, "samples": 500}


def test_the_other_start_catches_up_where_its_path_reaches_the_first_epoch_of_the_leader():
    leader = [row(5, 0.2), row(10, 0.5), row(20, 0.7)]
    assert choosing.caught_up(leader, [row(10, 0.1), row(20, 0.4), row(30, 0.5)]) == 3.0
    assert choosing.caught_up(leader, [row(10, 0.1)]) is None
    assert choosing.caught_up(None, leader) is None


def test_smaller_shares_lie_inside_larger_ones_and_are_judged_on_the_same_images():
    dataset = open_dataset("synthetic:200")
    whole = split(dataset, seed=0)
    thinned = [thin(dataset, whole, share) for share in (0.1, 0.3, 0.6, 1.0)]
    assert thinned[-1] is whole
    for fewer, more in zip(thinned, thinned[1:]):
        assert set(fewer.parts["train"]) < set(more.parts["train"])
        assert np.array_equal(fewer.parts["validation"], whole.parts["validation"])
        assert fewer.digest != more.digest
    for parts in thinned:
        groups = {dataset.samples[i].group for i in parts.parts["train"]}
        expected = [i for i in whole.parts["train"] if dataset.samples[i].group in groups]
        assert parts.parts["train"].tolist() == expected  # whole lesions
        assert set(dataset.targets(parts.parts["train"])) == set(dataset.targets())
        remade = again(dataset, json.loads(json.dumps(parts.recipe)))
        assert remade.digest == parts.digest and np.array_equal(remade.parts["train"], parts.parts["train"])
    assert "share" not in whole.recipe  # records of whole splits stay what they were
    with pytest.raises(DataError) as caught:
        thin(dataset, whole, 0)
    assert caught.value.code == "split-share"


def candidate(dataset, seed):
    parts = split(dataset, seed=seed)
    made = Provenance(data_digest=dataset.digest, split=parts.recipe)
    return choosing.Candidate(Path(f"seed-{seed}"), "run", dataset.labels, 32, made, np.zeros_like, {}, "")


def test_a_model_that_learned_from_the_images_judged_on_is_refused():
    dataset = open_dataset("synthetic:120")
    models = [candidate(dataset, 0), candidate(dataset, 0), candidate(dataset, 1)]
    chosen = choosing.common_images(models[:2], "synthetic:120", "auto")
    assert chosen.part == "validation" and len(chosen.indices) > 5
    with pytest.raises(DataError) as caught:
        choosing.common_images(models, "synthetic:120", "auto")
    assert caught.value.code == "part-trained" and "seed-1" in str(caught.value)


def test_the_studys_rank_correlation_is_scipys_and_knows_ties():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("infoplane_study", BENCHMARKS / "infoplane.py")
        study = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(study)
    finally:
        sys.path.remove(str(BENCHMARKS))
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.integers(0, 8, (2, 12))
        assert study.tau(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)
    assert math.isnan(study.tau(np.zeros(5), np.arange(5)))
    names = [candidate.name for candidate in (*study.CANDIDATES, *study.SHARES)]
    assert len(set(names)) == len(names) and len(study.CANDIDATES) >= 12


def run_command(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(["infoplane", *map(str, arguments)])
    return left.value.code, capsys.readouterr()


OPTIONS = {"size_px": 32, "epochs": 2, "dropout": 0.0}
DATA = "synthetic:128"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One recipe on three shares of the same images; and ``seen``, on all of them with its path recorded, killed once."""
    pytest.importorskip("keras", reason="Keras is not installed")
    from edge_derm import making
    from edge_derm.modeling import plane, training

    folder = tmp_path_factory.mktemp("plane")
    for share in (1.0, 0.5, 0.25):
        making.train(DATA, folder / f"share-{share}", share=share, **OPTIONS)

    def killed(state, model):
        if state.epoch == 2:
            raise KeyboardInterrupt

    recorder = plane.Recorder(folder / "seen", 3, infoplane.describe)
    with pytest.raises(KeyboardInterrupt):
        training.run(open_dataset(DATA), folder / "seen", callbacks=[killed], watchers=[recorder], **OPTIONS)
    making.train(DATA, folder / "seen", plane=3, **OPTIONS)
    return folder, recorder.rows


@pytest.mark.slow
def test_recording_the_path_changes_no_weight_and_goes_on_after_a_kill(trained):
    from edge_derm.modeling import runs

    folder, before = trained
    seen, bare = (runs.load(folder / name)[0].get_weights() for name in ("seen", "share-1.0"))
    assert all(np.array_equal(a, b) for a, b in zip(seen, bare))
    after = json.loads((folder / "seen" / "plane.json").read_text())["path"]
    assert [entry["step"] for entry in after] == [1, *range(3, after[-1]["step"] + 1, 3)] and len(after) > 3
    stripped = [[{**entry, "seconds": 0} for entry in path] for path in (before, after)]
    assert stripped[0] == stripped[1]


@pytest.mark.slow
def test_the_command_ranks_runs_and_draws_the_curves_by_class(trained, tmp_path, capsys):
    paths = [trained[0] / name for name in ("share-0.25", "seen", "share-0.5")]
    code, said = run_command(capsys, *paths, "--data", DATA, "--json", tmp_path / "r.json")
    assert code == 0 and "I(T;Y)" in said.out
    record = json.loads((tmp_path / "r.json").read_text())
    assert {"points", "shuffled", "ranking"} <= set(record) and len(record["points"]) == 3
    assert record["part"] == "validation" and len({point["samples"] for point in record["points"]}) == 1
    bits = [entry["corrected"]["value"] for entry in record["ranking"]]
    assert bits == sorted(bits, reverse=True)
    for curve in record["classes"]:
        images = [at["images"] for at in curve["curve"]]
        assert len(images) == 3 and images == sorted(images) and images[0] < images[-1]
    counts = {point["model"]: sum(point["train_images"].values()) for point in record["points"]}
    whole = json.loads((paths[1] / "run.json").read_text())["data"]["parts"]["train"]
    assert counts[str(paths[1])] == whole and counts[str(paths[2])] == pytest.approx(whole / 2, rel=0.1)

    page.render([record], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "What do its answers keep" in text and text.count("<svg") >= 2 and "The way there" in text


def test_a_bundle_is_placed_by_what_its_file_answers_and_shown(tiny_bundle, tmp_path, capsys):
    rng, labels = np.random.default_rng(0), ("akiec", "bcc", "mel", "nv")
    pixels, targets = [], np.repeat(np.arange(4), 8)
    for c, label in enumerate(labels):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(8):
            pixels.append(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            cv2.imwrite(str(tmp_path / "images" / label / f"{i}.png"), pixels[-1][..., ::-1])
    code, said = run_command(capsys, tiny_bundle, "--data", tmp_path / "images", "--json", "-")
    assert code == 0, said.err
    record = json.loads(said.out)
    t = infoplane.symbols(Classifier.open(tiny_bundle).predict(np.stack(pixels)))
    assert record["points"][0]["i_xt"] == pytest.approx(infoplane.entropy(t), abs=1e-9)
    assert record["points"][0]["i_ty"] == pytest.approx(infoplane.mutual_information(t, targets), abs=1e-9)
    page.render([record], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "What do its answers keep" in text and "train --share" in text and text.count("<svg") == 1


def test_a_bare_folder_and_no_bundle_are_refused_in_one_line(tmp_path, capsys):
    code, said = run_command(capsys, tmp_path, "--data", "synthetic:60")
    assert code == 1 and said.err.count("\n") == 1 and "expected" in said.err

"""The Dilated-MobileNet experiment's arithmetic: what is paired with what, both kinds of interval, and equal costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from scripts_of import benchmark

experiment = benchmark("dilated_mobilenet")
chance = benchmark("dilation_search").chance


def cell(arm, seed, *, wrong, macs=1000):
    """Two classes, ten images, the first ``wrong`` of them decided wrongly by the float model; int8 always one more."""
    targets = [0, 1] * 5
    decided = [1 - t if i < wrong else t for i, t in enumerate(targets)]
    int8 = [1 - t if i < wrong + 1 else t for i, t in enumerate(targets)]
    costs = {"parameters": 50, "macs": macs, "macs_file": macs}
    groups = [f"{seed}-{i}" for i in range(10)]
    return {
        "arm": arm,
        "seed": seed,
        **costs,
        "targets": targets,
        "groups": groups,
        "decided": {"float": decided, "int8": int8},
    }


def test_an_arm_is_a_variant_or_a_map_with_attention_or_without():
    assert experiment.train_choices("d2") == {"variant": "d2"}
    assert experiment.train_choices("d1+attention") == {"variant": "d1", "attention": True}
    assert experiment.train_choices("conv1=2+dw1=4") == {"dilation": "conv1=2,dw1=4"}
    assert experiment.train_choices("dw1=2+attention") == {"dilation": "dw1=2", "attention": True}


def test_attention_is_compared_with_the_same_network_without():
    arms = ["mobilenet", "d1", "d1+attention"]
    assert [experiment.reference_of(arm, arms) for arm in arms] == ["mobilenet", "mobilenet", "d1"]
    assert experiment.reference_of("d1+attention", ["mobilenet", "d1+attention"]) == "mobilenet"


def test_differences_are_of_cells_of_one_seed_and_students_interval_is_scipys():
    wrong = {"mobilenet": [3, 2, 5, 1], "d1": [2, 2, 3]}  # d1's fourth seed is not finished
    cells = [cell(arm, seed, wrong=w) for arm, row in wrong.items() for seed, w in enumerate(row)]
    _, d1 = experiment.summarise(cells, ["mobilenet", "d1"])
    assert d1["seeds"] == [0, 1, 2]
    for where in experiment.WHERE:
        found = d1["accuracy"][where]
        each = [0.1, 0.0, 0.2]
        assert found["difference_by_seed"] == pytest.approx(each)
        low, high = stats.t.interval(0.95, 2, loc=np.mean(each), scale=stats.sem(each))
        assert (found["difference"]["low"], found["difference"]["high"]) == pytest.approx((low, high))
        assert found["difference_of_images"]["value"] == pytest.approx(0.1)
    assert d1["accuracy"]["float"]["mean"] == pytest.approx(1 - np.mean([2, 2, 3]) / 10)
    assert experiment.mean([0.3])["low"] is None


def test_unequal_costs_are_refused():
    plain = cell("mobilenet", 0, wrong=1)
    experiment.check_equal([plain, cell("d1", 0, wrong=1), cell("d1+attention", 0, wrong=1, macs=1019)])
    with pytest.raises(AssertionError, match="macs"):
        experiment.check_equal([plain, cell("d1", 0, wrong=1, macs=1001)])
    with pytest.raises(AssertionError, match="d1.attention"):
        experiment.check_equal([plain, cell("d1+attention", 0, wrong=1, macs=1021)])


def test_arms_judged_on_different_images_are_refused():
    plain, other = cell("mobilenet", 3, wrong=1), cell("d1", 3, wrong=1)
    assert experiment.compare([(other, plain)], "int8", "accuracy")["difference_by_seed"] == [0]
    other["groups"] = other["groups"][::-1]
    with pytest.raises(AssertionError, match="seed 3: d1 and mobilenet .*--split"):
        experiment.compare([(other, plain)], "int8", "accuracy")


def test_only_missing_cells_are_planned_seed_by_seed(tmp_path):
    done = tmp_path / "a" / "d1-1"
    done.mkdir(parents=True)
    (done / "cell.json").write_text(json.dumps({}))
    planned = experiment.plan(["a", "b"], [1, 2], ["mobilenet", "d1"], tmp_path)
    assert [(name, seed, arm) for name, seed, arm, _ in planned] == [
        ("a", 1, "mobilenet"),
        ("a", 2, "mobilenet"),
        ("a", 2, "d1"),
        *[("b", seed, arm) for seed in (1, 2) for arm in ("mobilenet", "d1")],
    ]


def keep_run(work, arm, seed, *, balanced, macs=1000, **choices):
    """The record of a finished run, as ``train`` writes it where the search looks."""
    config = {"size_px": 64, "alpha": 0.25, "epochs": 5, **choices}
    figures = {"accuracy": balanced - 0.1, "balanced_accuracy": balanced, "auroc": {"mel": 0.9, "nv": 0.7}}
    run = {
        **{"parameters": 50, "macs": macs, "dilation": {}, "best_epoch": 4, "seconds": 60.0},
        **{"validation": figures, "identity": {"config": config}},
        "data": {"parts": {"validation": 100}, "split": {"seed": 7}},
    }
    path = work / "a" / f"{arm}-{seed}" / "run" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(run))


def search(work, record, *more):
    arms = ["--arms", "mobilenet,d1,conv1=2+dw1=3", "--seeds", "11,12", "--train-only", "--json", str(record)]
    more = ("--split", "7", *more)
    return CliRunner().invoke(experiment.main, ["--data", "a=unread", "--work", str(work), *arms, *more])


def test_a_search_compares_trained_runs_on_validation_best_map_first(tmp_path):
    balanced = {
        "mobilenet": (0.5, 0.6),
        "d1": (0.4, 0.6),
        "conv1=2+dw1=3": (0.6, 0.64),
        "unasked": (0.9, 0.9),
    }
    for arm, values in balanced.items():
        for seed, value in zip((11, 12), values):
            keep_run(tmp_path / "work", arm, seed, balanced=value)
    done = search(tmp_path / "work", tmp_path / "record.json")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["record"] == "dilation_search"
    (found,) = record["sets"]
    assert [arm["arm"] for arm in found["arms"]] == ["conv1=2+dw1=3", "mobilenet", "d1"]
    best = found["arms"][0]
    assert best["seeds"] == [11, 12] and best["against"] == "mobilenet"
    assert best["balanced_accuracy"]["difference_by_seed"] == pytest.approx([0.1, 0.04])
    assert best["worth"]["mean"] == pytest.approx((0.62 + 0.8) / 2)  # of balanced accuracy and macro AUROC
    assert len(found["cells"]) == 6
    assert "conv1=2+dw1=3" in done.output.splitlines()[0]


def test_a_search_refuses_runs_of_other_choices_and_unequal_costs(tmp_path):
    keep_run(tmp_path / "other", "mobilenet", 11, balanced=0.5, epochs=30)
    keep_run(tmp_path / "other", "d1", 11, balanced=0.5)
    refused = search(tmp_path / "other", tmp_path / "record.json", "--cells", "0")
    assert refused.exit_code == 2 and "'epochs': 30" in refused.output
    keep_run(tmp_path / "dearer", "mobilenet", 11, balanced=0.5)
    keep_run(tmp_path / "dearer", "d1", 11, balanced=0.5, macs=1001)
    refused = search(tmp_path / "dearer", tmp_path / "record.json", "--cells", "0")
    assert isinstance(refused.exception, AssertionError) and "macs" in str(refused.exception)
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("split", ["8", None])
def test_a_search_refuses_runs_of_another_split_whose_held_out_images_may_have_chosen_a_map(tmp_path, split):
    keep_run(tmp_path / "work", "mobilenet", 11, balanced=0.5)  # split 7
    told = ["--data", "a=unread", "--work", str(tmp_path / "work"), "--train-only", "--cells", "0"]
    refused = CliRunner().invoke(experiment.main, [*told, *(["--split", split] if split else [])])
    assert refused.exit_code == 2 and "'split': 7" in refused.output


def test_a_search_without_its_first_arm_yet_compares_nothing(tmp_path):
    keep_run(tmp_path / "work", "d1", 11, balanced=0.5)
    done = search(tmp_path / "work", tmp_path / "record.json", "--cells", "0")
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "record.json").read_text())["sets"]
    assert found["arms"] == [] and len(found["cells"]) == 1


@pytest.mark.slow
def test_what_a_search_trained_is_judged_without_training_again_on_the_split_that_was_named(tmp_path):
    pytest.importorskip("keras", reason="Keras is not installed")
    told = [
        "--data",
        "a=synthetic:96",
        "--work",
        str(tmp_path / "work"),
        "--json",
        str(tmp_path / "record.json"),
    ]
    told += ["--arms", "mobilenet,conv1=2", "--seeds", "1", "--size", "32", "--epochs", "1", "--split", "7"]

    def run(*more):
        done = CliRunner().invoke(experiment.main, [*told, *more])
        assert done.exit_code == 0, done.output
        (found,) = json.loads((tmp_path / "record.json").read_text())["sets"]
        return found

    found = run("--train-only")
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("a/*/run/run.json")}
    assert len(runs) == 2 and not list((tmp_path / "work").glob("a/*/cell.json"))
    assert {cell["split"]["seed"] for cell in found["cells"]} == {7}
    judged = run()
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    assert [arm["seeds"] for arm in judged["arms"]] == [[1], [1]]
    assert all(set(cell["accuracy"]) == {"float", "int8"} for cell in judged["cells"])


def test_chance_of_two_arms_is_students_interval_of_their_difference_and_the_best_of_many_goes_further():
    plain, other = [0.50, 0.55, 0.61], [0.52, 0.54, 0.66]
    interval = experiment.mean(np.subtract(other, plain))
    found = chance([plain, other])
    assert found["one"] == found["best"] == pytest.approx((interval["high"] - interval["low"]) / 2)
    assert found["degrees"] == 2
    many = chance([plain, other, [0.4, 0.6, 0.5]])
    assert many["best"] > many["one"] > 0
    assert chance([plain]) is chance([]) is None  # nothing to compare
    assert chance([[0.5], [0.6]]) is None  # one seed has no scatter


@pytest.mark.parametrize("record", ["dilated_mobilenet.json", "dilated_mobilenet_128px.json"])
def test_committed_records_hold_equal_costs(record):
    path = Path(__file__).parent.parent / "benchmarks" / "results" / record
    for one in json.loads(path.read_text(encoding="utf-8"))["sets"]:
        experiment.check_equal(one["cells"])
        assert all(arm["seeds"] for arm in one["arms"])

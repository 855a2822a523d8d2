"""The Dilated-MobileNet experiment's arithmetic: what is paired with what, both kinds of interval, and equal costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scripts_of import benchmark

experiment = benchmark("dilated_mobilenet")


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


@pytest.mark.parametrize("record", ["dilated_mobilenet.json", "dilated_mobilenet_128px.json"])
def test_committed_records_hold_equal_costs(record):
    path = Path(__file__).parent.parent / "benchmarks" / "results" / record
    for one in json.loads(path.read_text(encoding="utf-8"))["sets"]:
        experiment.check_equal(one["cells"])
        assert all(arm["seeds"] for arm in one["arms"])

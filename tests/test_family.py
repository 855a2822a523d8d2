"""The family benchmark: rows with every figure, a front that nothing beats, and its page."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_derm import making
from edge_derm.report import measuring
from edge_derm.runtime import Classifier
from edge_derm.selection import select
from scripts_of import benchmark

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def family():
    """benchmarks/family.py as a module."""
    return benchmark("family")


def made(latency, accuracy, **more):
    return {"latency_ms": {"p50": latency}, "accuracy": {"value": accuracy}, **more}


def test_the_front_is_exactly_what_nothing_beats_in_both(family):
    rows = [made(1.0, 0.7), made(2.0, 0.8), made(2.0, 0.75), made(3.0, 0.8), made(0.5, 0.6)]
    assert family.mark_front(rows) == {"cost": "latency_ms", "quality": "accuracy"}
    assert [row["pareto"] for row in rows] == [True, True, False, False, True]


def test_without_accuracy_the_front_is_of_bytes_and_speed(family):
    rows = [
        {"ratio": {"value": p50}, "accuracy": None, "bytes": size} for p50, size in ((1, 10), (2, 5), (2, 11))
    ]
    assert family.mark_front(rows)["cost"] == "bytes"
    assert [row["pareto"] for row in rows] == [True, True, False]


def test_rows_are_timed_in_turn_and_the_ratio_is_over_the_first(family, tiny_int8, tiny_float):
    rows = [{"model": model, "size_px": 32} for model in (tiny_int8, tiny_float)]
    family.time_all(rows, rounds=20)
    assert rows[0]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert len(rows[1]["latency_ms"]["samples"]) == 20 * family.BLOCK
    assert rows[1]["ratio"]["low"] <= rows[1]["ratio"]["value"] <= rows[1]["ratio"]["high"]


def test_what_a_target_cannot_count_has_its_reason(family, tmp_path):
    rows = [{"path": tmp_path / f"{recipe}.tflite", "recipe": recipe} for recipe in ("float16", "int8")]
    family.count(rows, wanted=False)
    for row in rows:
        assert row["instructions_arm64"] is None and row["instructions_cortex_m7_reason"]
    assert "float16 is not counted" in rows[0]["instructions_arm64_reason"]


def test_what_was_counted_before_is_read_from_beside_the_model(family, tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"instructions_cortex_m7": 7}))
    rows = [{"path": tmp_path / "m.tflite", "recipe": "int8"}]
    family.count(rows, wanted=False)
    assert (rows[0]["instructions_cortex_m7"], rows[0]["instructions_cortex_m7_reason"]) == (7, None)
    assert rows[0]["instructions_arm64"] is None and "--instructions" in rows[0]["instructions_arm64_reason"]


@pytest.mark.slow
def test_a_trained_run_is_judged_as_the_bundle_that_export_makes_of_it(family, tmp_path):
    """On its own data (what it was not trained on) and on other data, whose pictures no calibration sees."""
    making.train("synthetic:80", tmp_path / "run", size_px=32, epochs=1)
    making.export(tmp_path / "run", tmp_path / "b.bundle")
    shipped = Classifier.open(tmp_path / "b.bundle")
    for data, part in (("synthetic:80", "auto"), ("synthetic:24", "all")):
        (tmp_path / data).mkdir()
        (row,) = family.trained([tmp_path / "run"], data, ["int8"], tmp_path / data)
        assert row["model"] == (tmp_path / "b.bundle/model.tflite").read_bytes()
        chosen = select(data, part=part, provenance=shipped.manifest.provenance)
        named = shipped.predict(chosen.pixels(32)).argmax(axis=1)
        assert row["accuracy"]["value"] == np.mean(named == chosen.targets(shipped.labels))
        assert len(named) < 80 and row["accuracy"]["n"] == len(named)


@pytest.mark.slow
def test_the_script_writes_a_record_and_a_page(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "family.py"),
            "--variants",
            "mobilenet,d1",
            "--alphas",
            "0.25",
            "--sizes",
            "32",
        ]
        + [
            "--recipes",
            "int8",
            "--rounds",
            "20",
            "--json",
            str(tmp_path / "f.json"),
            "--out",
            str(tmp_path / "f.html"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "f.json").read_text())
    plain, dilated = record["rows"]
    assert (
        plain["macs"] == dilated["macs"] and plain["parameters"] == dilated["parameters"]
    )  # dilation adds neither
    assert plain["arena_bytes"] > 0 and dilated["arena_bytes"] > 0 and record["trained"] is False
    page = (tmp_path / "f.html").read_text()
    assert "The family" in page and page.count('class="dot') == 2 and "mobilenet" in page
    assert measuring.family(record) in page

"""The table and the front, against arithmetic written out and a brute-force search."""

import csv

import numpy as np
import pytest

from edge_derm.report import sweeps
from edge_derm.report.page import render
from edge_derm.sweep import table


def row(recipe, seed, accuracy, size, instructions=None):
    return {
        "cell": f"{recipe}-{seed}",
        "variant": "d1",
        "alpha": 0.25,
        "size_px": 96,
        "recipe": recipe,
        "seed": seed,
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
        "bytes": size,
        "macs": 1000,
        "instructions:mcu:x": instructions,
        "error": None,
        "message": None,
    }


ROWS = [
    row("int8", 0, 0.7, 100, 50),
    row("int8", 1, 0.8, 110, 40),
    row("float32", 0, 0.75, 400),
    row("float16", 0, 0.76, 200),
    {**row("int16x8", 0, None, None), "error": "no-luck", "message": "none <b>"},
]


def test_a_configuration_is_the_mean_of_its_seeds_at_the_largest_cost():
    int8 = table.configurations(ROWS)[0]
    assert int8["accuracy"] == pytest.approx(0.75) and int8["accuracy_sd"] == pytest.approx(
        0.0707107, abs=1e-6
    )
    assert int8["bytes"] == 110 and int8["instructions:mcu:x"] == 50 and int8["seeds"] == 2
    assert [c["recipe"] for c in table.configurations(ROWS)] == ["int8", "float32", "float16"]


def test_the_front_knows_accuracy_and_every_cost_and_never_rewards_an_unknown_one():
    found = table.configurations(ROWS)
    assert table.mark(found) == ("accuracy", "bytes", "macs", "instructions:mcu:x")
    # float32 is as accurate as int8, and worse in bytes and instructions; float16 is the most accurate.
    assert {c["recipe"]: c["pareto"] for c in found} == {"int8": True, "float32": False, "float16": True}


def test_the_front_is_that_of_a_brute_force_search():
    points = np.random.default_rng(0).integers(0, 6, (60, 3)).astype(float)
    wanted = [
        not any(
            all(b >= a for a, b in zip(p, q)) and any(b > a for a, b in zip(p, q)) for q in points.tolist()
        )
        for p in points.tolist()
    ]
    assert table.unbeaten(points).tolist() == wanted and 0 < sum(wanted) < 60


def test_csv_and_parquet_hold_the_same_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the package pyarrow is not installed")
    assert table.write(tmp_path, ROWS) == ["results.csv", "results.parquet"]
    stored = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    with open(tmp_path / "results.csv", newline="") as file:
        texts = list(csv.DictReader(file))
    assert stored == ROWS
    assert texts == [{k: "" if v is None else str(v) for k, v in r.items()} for r in ROWS]


def test_the_page_shows_the_front_and_what_failed(tmp_path):
    found = table.configurations(ROWS)
    axes = table.mark(found)
    record = {
        "record": "sweep",
        "data": "images/",
        "grid": {"seeds": [0, 1]},
        "options": {"train": {"epochs": 3}},
        "runs": ROWS,
        "failed": 1,
        "axes": axes,
        "configurations": found,
        "pareto": [c for c in found if c["pareto"]],
    }
    render([record], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 3 and "What nothing beats" in page and "none &lt;b&gt;" in page
    assert sweeps.staircase([(2, 0.5), (1, 0.4), (3, 0.5), (2, 0.3)]) == [(1, 0.4), (2, 0.5)]

"""What uncertainty costs: each model and way of asking, in processes of their own."""

import json
import shutil
import subprocess
import sys

import pytest
from pictures import write_classes
from scripts_of import BENCHMARKS, benchmark

from edge_derm.bundle import Dropout, open_bundle, update_bundle

uncertainty = benchmark("uncertainty")


def run(*words):
    command = [sys.executable, BENCHMARKS / "uncertainty.py", *words, "--runs", "1", "--passes", "2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_each_model_has_its_costs_and_what_it_is_worth(tiny_bundle, tmp_path):
    update_bundle(open_bundle(tiny_bundle), dropout=Dropout(0.2, 1))
    first, second, out = tmp_path / "one.bundle", tmp_path / "two.bundle", tmp_path / "record.json"
    for copy in (first, second):
        shutil.copytree(tiny_bundle, copy)
    data = write_classes(tmp_path / "data", ("akiec", "bcc", "mel", "nv"))
    done = run(first, second, "--data", data, "--out", out)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(out.read_text())
    assert list(record["models"]) == ["one", "two"] and str(tmp_path) not in out.read_text()
    for name, model in record["models"].items():
        assert set(model["ratio"]) == {*uncertainty.TARGETS, "naive_head"}
        for told in (model["deterministic_ms"], *model["ratio"].values()):
            assert len(told["each"]) == told["n"] == uncertainty.PROCESSES
            assert 0 < told["value"] and told["low"] <= told["value"] <= told["high"]
        assert model["worth"]["bundle"] == f"{name}.bundle" and "risk_coverage" not in model["worth"]


def test_bundles_of_one_name_are_refused(tiny_bundle, tmp_path):
    copy = shutil.copytree(tiny_bundle, tmp_path / "elsewhere" / tiny_bundle.name)
    done = run(tiny_bundle, copy)
    assert done.returncode == 2 and "expected bundles of different names" in done.stderr

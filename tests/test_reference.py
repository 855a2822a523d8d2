"""The release recipe: one command from data to judged bundles, gone on with where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="Keras is not installed")
HERE = Path(__file__).parents[1]


@pytest.mark.slow
def test_one_command_rebuilds_and_judges_the_reference_models_and_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, str(HERE / "benchmarks/reference.py"), "--data", "synthetic:100", "--quick"]
    command += ["--work", str(tmp_path), "--json", str(tmp_path / "reference.json")]

    def run():
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((tmp_path / "reference.json").read_text())

    record = run()
    kept = {
        path: path.stat().st_mtime_ns
        for path in tmp_path.glob("*/*")
        if path.name in ("run.json", "model.tflite")
    }
    assert len(kept) == 8  # four runs, four bundles
    models = record["models"]
    assert models["reference"]["size_px"] == 64 and models["small"]["size_px"] == 32
    # more pixels cost multiplications, not bytes: the weights are the same in number
    assert models["reference"]["parameters"] == models["small"]["parameters"]
    assert models["reference"]["macs"] > 3 * models["small"]["macs"]
    for model in models.values():
        assert model["images"] > 0 and set(model["test"]) == {"float", "int8_xnnpack", "int8_reference"}
        for figures in model["test"].values():
            balanced = figures["balanced_accuracy"]
            assert balanced["low"] <= balanced["value"] <= balanced["high"]
    assert str(tmp_path) not in json.dumps(record)  # where files lie is nobody's business
    again = run()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again["models"] == models

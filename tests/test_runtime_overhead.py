"""What predict costs over LiteRT's own calls: each process is compared with itself."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scripts_of import BENCHMARKS, benchmark

overhead = benchmark("runtime_overhead")


def test_processes_that_differ_do_not_blur_the_difference():
    """Two slow processes and one fast one; in each the second takes 10 µs longer, or a tenth."""
    rng = np.random.default_rng(0)
    first = [level + rng.normal(0, 1e-4, 401) for level in (0.1, 0.2, 0.3)]
    told = overhead.compare([np.stack([values, values + 0.01]) for values in first])
    assert told["difference_us"]["value"] == pytest.approx(10, abs=0.01)
    assert told["difference_us"]["high"] - told["difference_us"]["low"] < 0.01
    longer = overhead.compare([np.stack([values, values * 1.1]) for values in first])
    assert longer["ratio"]["value"] == pytest.approx(1.1) and longer["ratio"]["each"] == pytest.approx(
        [1.1] * 3
    )
    low, high = longer["difference_us"]["low"], longer["difference_us"]["high"]
    assert low < 20 < high and high - low > 20  # 10, 20 and 30 µs: Student's interval of three


def test_a_model_is_measured_in_processes_of_its_own(tiny_models, tmp_path):
    path, out = tmp_path / "tiny.tflite", tmp_path / "record.json"
    path.write_bytes(tiny_models["int8"])
    command = [sys.executable, BENCHMARKS / "runtime_overhead.py", path, "--runs", "50", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(out.read_text())
    (model,) = record["models"]
    assert model["processes"] == overhead.PROCESSES and model["model"]["input"] == "int8"
    for row in model["rows"].values():
        assert len(row["first_ms"]["samples"]) == overhead.PROCESSES == len(row["ratio"]["each"])
        assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    assert str(tmp_path) not in out.read_text()

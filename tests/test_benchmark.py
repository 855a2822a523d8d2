"""Latency records: all samples kept, ratios from one interleaved run, figures by independent arithmetic."""

import io
import json
import sys
import time

import jsonschema
import numpy as np
import pytest

from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.cli.bench import text
from edge_derm.errors import TargetError
from edge_derm.measure import benchmark, local, memory, record, targets
from edge_derm.measure.environment import environment
from edge_derm.runtime import golden


def test_every_sample_is_kept_and_the_figures_are_numpys():
    latency = benchmark.Latency(np.array([5.0, 1.0, 2.0, 3.0, 4.0] * 20), warmup=10)
    record = latency.record()
    assert record["samples"] == [5.0, 1.0, 2.0, 3.0, 4.0] * 20
    assert record["p50"] == 3.0 and record["p90"] == 5.0 and record["mean"] == 3.0
    assert record["ci95"][0] <= 3.0 <= record["ci95"][1] and record["outliers"] == 0


def test_outliers_are_counted_not_dropped():
    record = benchmark.Latency(np.array([1.0] * 50 + [1.1] * 49 + [90.0]), warmup=10).record()
    assert record["outliers"] == 1 and len(record["samples"]) == 100 and record["p99"] > 1.1


def test_a_wide_interval_is_warned_about():
    steady = benchmark.Latency(np.linspace(1, 1.02, 60), warmup=10).record()
    wild = benchmark.Latency(np.geomspace(0.1, 100, 60), warmup=10).record()
    assert steady["warning"] is None and "wide" in wild["warning"]


def test_at_least_fifty_samples_after_warming_up():
    calls = []
    latency = benchmark.measure(lambda: calls.append(1), runs=3)
    assert len(latency.samples_ms) == 50 and latency.warmup >= 10 and len(calls) == 50 + latency.warmup


def test_comparison_is_interleaved_and_sees_a_difference_of_three():
    order = []

    def spin(name, seconds):
        order.append(name)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    _, _, verdict = benchmark.compare(lambda: spin("a", 6e-4), lambda: spin("b", 2e-4), runs=60)
    assert order[-120:] == ["a", "b"] * 60
    assert verdict["verdict"] == "slower" and verdict["ratio"]["low"] > 1
    assert verdict["ratio"]["low"] <= verdict["ratio"]["value"] <= verdict["ratio"]["high"]


def test_equal_samples_are_undecided():
    pairs = np.ones((60, 2))
    low, high = benchmark.bootstrap(pairs, lambda p: np.median(p[:, 0]) / np.median(p[:, 1]))
    assert low == high == 1.0


def test_the_environment_is_plain_json():
    found = environment(command="x")
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1 and found["python"].count(".") == 2 and "numpy" in found["packages"]


@pytest.mark.slow
def test_a_bundle_is_measured_with_every_key_of_the_contract(tiny_bundle):
    record = local.bench(tiny_bundle, runs=50)
    assert {"target", "emulated", "latency_ms", "instructions", "memory", "operators", "environment"} <= set(
        record
    )
    assert {"p50", "p90", "p95", "p99", "mean", "ci95", "samples"} <= set(record["latency_ms"])
    assert {"model_bytes", "arena_bytes", "peak_rss_bytes"} <= set(record["memory"])
    assert record["target"] == "local" and record["emulated"] is False and record["instructions"] is None
    assert record["memory"]["model_bytes"] == (tiny_bundle / "model.tflite").stat().st_size
    assert record["memory"]["arena_bytes"] is None and record["memory"]["arena_bytes_reason"]
    assert record["operators"]["DEPTHWISE_CONV_2D"] == 1
    json.dumps(record, allow_nan=False)


@pytest.mark.slow
def test_the_same_file_against_itself_is_about_one(tiny_bundle):
    record = local.bench(tiny_bundle / "model.tflite", compare=tiny_bundle / "model.tflite", runs=200)
    assert 0.7 < record["ratio"]["value"] < 1.4 and record["other"]["latency_ms"]["p50"] > 0


@pytest.mark.slow
def test_memory_does_not_count_what_the_measuring_process_holds(tiny_bundle):
    held = np.ones(60_000_000)  # 480 MB here must not show in the child's figure
    found = memory.peak_rss(tiny_bundle)
    assert held[0] == 1 and 0 < found["peak_rss_bytes"] < 150e6


def test_memory_of_a_broken_model_is_a_named_error(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    with pytest.raises(TargetError, match="memory failed") as caught:
        memory.peak_rss(tmp_path / "x.tflite")
    assert caught.value.code == "memory-child"


@pytest.mark.slow
def test_profile_soak_and_parity_are_in_the_record_and_fit_the_schema(tiny_bundle):
    made = local.bench(tiny_bundle, runs=50, profile=True, soak_min=0.01)
    jsonschema.validate(made, record.schema())
    assert sum(made["operators"].values()) == len(made["profile"]["operators"])
    assert made["parity"]["default"]["lsb"] == 0 and made["parity"]["default"]["decisions_changed"] == 0
    said = text(made)
    assert "timed sub-graphs" in said and "soak: " in said and "not told here" in said


def test_a_backend_that_computes_something_else_is_not_timed(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    arrays = dict(golden.read(bundle.part("golden.npz")))
    for name in ("outputs_default", "outputs_reference"):
        arrays[name] = arrays[name][:, ::-1].copy()
        arrays[name][:, 0] = 127
        arrays[name][:, 1:] = -128
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    update_bundle(bundle, parts={"golden.npz": ("golden", stream.getvalue())})
    with pytest.raises(TargetError, match="computes something else and is not timed") as caught:
        local.bench(tiny_bundle, runs=50)
    assert caught.value.code == "bench-parity"


def test_what_bench_cannot_do_is_said_in_one_line(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGE_DERM_TFLITE_RUNTIME_PYTHON", raising=False)
    with pytest.raises(TargetError, match="--prepare local:tflite-runtime") as caught:
        local.bench(tiny_bundle, backend="tflite-runtime")
    assert caught.value.code == "backend-elsewhere"
    with pytest.raises(TargetError) as caught:
        local.bench(tiny_bundle, backend="opencv", profile=True)
    assert caught.value.code == "bench-profile"
    monkeypatch.setenv("EDGE_DERM_TFLITE_RUNTIME_PYTHON", sys.executable)  # a Python that does not have it
    with pytest.raises(TargetError, match="tflite_runtime|may name another Python") as caught:
        local.bench(tiny_bundle, backend="tflite-runtime")
    assert caught.value.code == "bench-elsewhere"


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for CPython 3.12 and later"
)
def test_tflite_runtime_is_prepared_and_measured_in_its_own_python(
    tiny_bundle, tmp_path_factory, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("EDGE_DERM_TFLITE_RUNTIME_PYTHON", raising=False)
    target = targets.find_target("local:tflite-runtime")
    assert target.row()["missing"] == "edge-derm targets --prepare local:tflite-runtime"
    target.prepare()
    assert target.ready() == (True, None)
    made = targets.bench(tiny_bundle, target="local:tflite-runtime", runs=50, command="x")
    jsonschema.validate(made, record.schema())
    assert made["backend"] == "tflite-runtime" and made["environment"]["command"] == "x"
    assert made["environment"]["packages"]["tflite-runtime"] == "2.14.0"
    assert made["environment"]["packages"]["numpy"].startswith("1.")
    assert min(made["parity"][kernels]["lsb"] for kernels in ("default", "reference")) <= 2

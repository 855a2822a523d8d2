"""mcu: targets give a whole bench record of a Cortex-M board, through firmware_bridge."""

from __future__ import annotations

import json

import pytest

from edge_derm.cli import bench as cli_bench
from edge_derm.errors import TargetError
from edge_derm.measure import mcu
from edge_derm.measure.targets import bench, find_target
from firmware_bridge import board

pytestmark = pytest.mark.mcu


@pytest.fixture
def model(tmp_path, tiny_int8):
    path = tmp_path / "model.tflite"
    path.write_bytes(tiny_int8)
    return path


def test_every_emulated_board_is_a_target_and_is_ready():
    names = {target.name for target in mcu.targets()}
    assert names == {f"mcu:{name}" for name in board.BOARDS if name != "host"}
    assert all(find_target(name).ready() == (True, None) for name in names)


def test_a_missing_tool_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    ready, missing = find_target("mcu:mps2-an500").ready()
    assert not ready and "qemu-system-arm" in str(missing)


@pytest.mark.slow
def test_a_bundle_is_counted_compared_and_exact(tiny_bundle, model):
    record = bench(tiny_bundle, target="mcu:mps2-an500", compare=model, profile=True)
    assert record["emulated"] and record["latency_ms"] is None
    assert record["instructions"] > 100_000 and record["memory"]["arena_bytes"] > 32 * 32 * 3
    assert record["parity"]["different"] == 0 and record["parity"]["values"] > 1000
    assert (record["verdict"], record["ratio"]["value"]) == (
        "equal",
        1.0,
    )  # the bundle holds the same network
    layers = sum(row["instructions"] for row in record["profile"]["operators"])
    assert abs(layers / record["instructions"] - 1) < 0.05
    said = cli_bench.text(json.loads(json.dumps(record)))
    assert "instructions an inference" in said and "DEPTHWISE_CONV_2D" in said


def test_a_float_model_is_refused_with_what_to_do(tmp_path, tiny_float):
    path = tmp_path / "float.tflite"
    path.write_bytes(tiny_float)
    with pytest.raises(TargetError, match="quantise it first") as caught:
        bench(path, target="mcu:mps2-an500")
    assert caught.value.code == "mcu-refused"

"""Damaged files through the whole bridge: a named error, or C; and the C computes what LiteRT computes of that file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fuzz_bridge
from firmware_bridge import board
from tiny_tflite import classifier, pack

HERE = Path(__file__).parent
MODELS = Path(os.environ.get("EDGE_DERM_MODELS", HERE.parents[1] / "shared/models"))


def fuzz(*arguments: object) -> dict:
    command = [sys.executable, str(HERE / "fuzz_bridge.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_damaged_small_models_become_c_or_a_named_error_and_the_c_is_right():
    if board.missing_tools(board.find_board("host")):
        pytest.skip("no C compiler on this machine")
    record = fuzz("--mutations", 1500, "--seed", 5, "--generate", 60, "--run", 4)
    assert record["accepted"] + sum(record["refused"].values()) == 1500
    assert sum(record["generated"].values()) == 60 and record["generated"]["C"] > 20
    assert sum(record["ran"].values()) == 4 and record["ran"].get("exact", 0) >= 1


@pytest.mark.slow
def test_a_damaged_real_model_is_read_or_refused():
    if not MODELS.is_dir():
        pytest.skip(f"no {MODELS}")
    record = fuzz(MODELS / "kws_ref_model.tflite", "--mutations", 800, "--seed", 6, "--generate", 2)
    assert record["accepted"] > 50 and len(record["refused"]) > 5


def test_most_damage_hits_what_is_no_weight():
    """Of a file with 200 bytes of weights, four fifths of the cases leave those alone."""
    writer = classifier()
    writer.tensor("unused", (1, 200), scale=[0.5], zero_point=[0], data=np.full((1, 200), 77, np.int8))
    data = pack(writer)
    seed, at = fuzz_bridge.make_seed("classifier", data), data.index(b"M" * 200)
    rng = np.random.default_rng(0)
    touched = [fuzz_bridge.mutate(seed, rng)[at : at + 200] != b"M" * 200 for _ in range(300)]
    assert 0 < sum(touched) < 0.2 * 300


def test_an_output_that_no_operator_makes_is_named():
    """Found by the fuzzer: a graph whose outputs are constants or its own inputs."""
    for index in (0, 1):
        broken = classifier()
        broken.graph.outputs = [broken.graph.operators[0].inputs[index]]
        assert fuzz_bridge.generate(pack(broken)) == "unsupported-output"


def test_scales_that_no_arithmetic_holds_are_named():
    """Found by the fuzzer: a scale of 1e-40 under a RELU6."""
    broken = classifier()
    op = broken.graph.operators[0]
    broken.graph.tensors[op.outputs[0]].quantization.scale = [1e-40]
    assert fuzz_bridge.generate(pack(broken)) == "unsupported-quantization"

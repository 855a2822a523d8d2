"""Generated C computes the bytes of TensorFlow Lite's reference kernels, on every tensor, and is the same every time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny_tflite
from firmware_bridge import board
from firmware_bridge.codegen import generate_network
from firmware_bridge.graph import BridgeError, UnsupportedError
from firmware_bridge.network import lcg_bytes, lcg_inputs, read_network
from firmware_bridge.project import network_files
from firmware_bridge.running import check_network, run_network

MODELS = Path(os.environ.get("EDGE_DERM_MODELS", Path(__file__).parents[2] / "shared/models"))


def random_inputs(network, count: int, seed: int = 1) -> list:
    """Noise of every contrast around every level, so that not only averages differ; extremes first."""
    rng = np.random.default_rng(seed)
    tensors = [network.graph.tensor(index) for index in network.graph.inputs]
    return [[_random_array(tensor, rng, number) for tensor in tensors] for number in range(count)]


def _random_array(tensor, rng, number: int) -> np.ndarray:
    limits = np.iinfo(tensor.dtype)
    if number < 2:
        return np.full(tensor.shape, (limits.min, limits.max)[number], tensor.dtype)
    level = rng.integers(limits.min, limits.max, tensor.shape[-1:], endpoint=True)
    noise = rng.integers(-256, 256, tensor.shape) * rng.choice([0.05, 0.3, 1.0])
    return np.clip(level + noise, limits.min, limits.max).astype(tensor.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "uint8"])
def test_a_converted_network_is_exact_on_every_tensor(recipe, tiny_models):
    network = read_network(tiny_models[recipe])
    _, compared = check_network(network, "host", random_inputs(network, 100), extra=board.SANITIZE)
    assert compared.inputs == 100 and compared.exact, compared.wrong


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_tflite.classifier])
def test_a_handwritten_network_is_exact_on_every_tensor(make):
    network = read_network(tiny_tflite.pack(make()))
    _, compared = check_network(network, "host", random_inputs(network, 100), extra=board.SANITIZE)
    assert compared.exact, compared.wrong


def test_a_wrong_value_is_seen(tiny_int8):
    network = read_network(tiny_int8)
    convs = [op for op in network.graph.ops if op.name == "CONV_2D"]
    weights = network.graph.tensor(convs[0].inputs[1])
    data = weights.data.copy()
    data.flat[0] += 40 if data.flat[0] < 0 else -40
    tensors = tuple(replace(t, data=data) if t.index == weights.index else t for t in network.graph.tensors)
    spoilt = replace(network, graph=replace(network.graph, tensors=tensors))
    compared = check_network(spoilt, "host", random_inputs(network, 2))[1]
    assert not compared.exact and convs[0].outputs[0] in compared.wrong


@pytest.mark.slow
@pytest.mark.mcu
@pytest.mark.parametrize("name", board.BOARDS)
def test_every_board_gives_the_reference_outputs(name, tiny_int8):
    network = read_network(tiny_int8)
    run, compared = check_network(network, name, random_inputs(network, 3))
    assert compared.exact, compared.wrong
    if name != "host":
        assert run.instructions > 100_000 and 0 < run.stack_bytes < 8192
        assert run.sizes.text < 32_000 and run.sizes.weights < len(tiny_int8)


def test_the_published_outputs_of_the_public_models():
    for file, expected in (
        ("vww_96_int8.tflite", [120, -120]),
        ("kws_ref_model.tflite", [-128] * 9 + [-102, -128, 102]),
    ):
        if (MODELS / file).is_file():
            network = read_network((MODELS / file).read_bytes())
            run = run_network(network, "host", [lcg_inputs(network, 12345)])
            assert run.outputs[0][network.graph.outputs[0]].ravel().tolist() == expected


def test_the_lcg_is_its_definition():
    assert lcg_bytes(12345, 3).tolist() == [5, 4, -117]
    assert (12345 * 1664525 + 1013904223) % 2**32 >> 24 == 5


def test_generating_twice_gives_identical_text(tiny_int8):
    one, two = (network_files(read_network(tiny_int8)) for _ in range(2))
    assert one == two
    assert {"net.c", "net.h", "net_data.c", "ed_kernels.h"} <= set(one)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_compiler_warns(compiler, tiny_int8):
    network = read_network(tiny_int8)
    for optimize in ("-O0", "-O3"):
        run_network(network, "host", random_inputs(network, 1), compiler=compiler, optimize=optimize)


@pytest.mark.parametrize("name", ["Net", "9net", "", "net-1", "ed_net", "n" * 40, "a/b", "int main"])
def test_a_name_that_is_not_c_is_refused(name, tiny_int8):
    network = read_network(tiny_int8)
    with pytest.raises(BridgeError) as caught:
        generate_network(network.graph, network.plan, name=name)
    assert caught.value.code == "bad-name"


def test_a_float_network_is_told_how_to_be_quantised(tiny_float):
    with pytest.raises(UnsupportedError, match="quantise it first, with this command") as caught:
        read_network(tiny_float)
    assert caught.value.code == "float-model"


def test_16_bit_activations_are_refused_by_name(tiny_models):
    with pytest.raises(UnsupportedError, match=r"operator \d+ \(\w+\), tensor \d+ .*int16") as caught:
        read_network(tiny_models["int16"])
    assert caught.value.code == "unsupported-type"

"""Whole networks of other families, and random ones, are exact on every tensor, with every kind of edge."""

from __future__ import annotations

import pytest

import net_models
from firmware_bridge import board
from firmware_bridge.network import read_network
from firmware_bridge.project import STACK_BYTES
from firmware_bridge.running import check_network
from test_codegen import random_inputs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("edge", ["int8", "uint8", "float32"])
@pytest.mark.parametrize("family", net_models.FAMILIES)
def test_every_family_is_exact_on_every_tensor(family, edge):
    network = read_network(net_models.FAMILIES[family](edge))
    expected = "uint8" if edge == "uint8" else "int8"
    assert network.graph.tensor(network.graph.inputs[0]).dtype == expected
    inputs = random_inputs(network, 100)
    extra = board.SANITIZE if edge == "int8" else ()
    run, compared = check_network(network, "host", inputs, optimize="-O1", extra=extra)
    assert compared.inputs == 100 and compared.exact, compared.wrong
    last = network.graph.outputs[-1]
    assert len({output[last].tobytes() for output in run.outputs}) > 1


@pytest.mark.mcu
@pytest.mark.parametrize(
    "family, name",
    [
        *(("residual", name) for name in ("mps2-an385", "mps2-an500", "mps3-an547")),
        *(("inverted", name) for name in ("mps2-an386", "mps2-an500", "mps3-an547")),
        *(("odd", name) for name in ("mps2-an505", "mps2-an385", "mps3-an547")),
    ],
)
def test_every_family_is_exact_on_every_board(family, name):
    network = read_network(net_models.FAMILIES[family]())
    run, compared = check_network(network, name, random_inputs(network, 3))
    assert compared.exact, compared.wrong
    assert run.stack_bytes <= STACK_BYTES and run.sizes.text <= 32_000

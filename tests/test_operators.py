"""Every operator, over shapes, strides, paddings, dilations, multipliers, scales and zero points: the generated C
gives the bytes of LiteRT's reference kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import operator_models
from firmware_bridge import board
from firmware_bridge.network import Network
from firmware_bridge.plan import plan_apart
from firmware_bridge.reference import run_reference
from firmware_bridge.running import run_network
from firmware_bridge.tflite import parse

CASES = 2_100
TOGETHER = 150  # in one executable

pytestmark = pytest.mark.slow


def draw(count: int) -> list[operator_models.Operator]:
    """``count`` operators, the same in every run."""
    drawn: list[operator_models.Operator] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operator=operator_models.operators())
    def collect(operator: operator_models.Operator) -> None:
        drawn.append(operator)

    collect()
    return drawn


def wrong(
    drawn: list[operator_models.Operator], place: str, **build_options
) -> list[operator_models.Operator]:
    """The operators whose C gives another output than LiteRT on a random input."""
    model = operator_models.build(drawn)
    graph = parse(model)
    network = Network(model, graph, graph, plan_apart(graph))
    rng = np.random.default_rng(len(drawn))
    inputs = [[rng.integers(-128, 128, graph.tensor(i).shape).astype(np.int8) for i in graph.inputs]]
    ours = run_network(network, place, inputs, **build_options).outputs[0]
    (right,) = run_reference(model, graph, graph, inputs, tensors=graph.outputs)
    assert len(graph.outputs) == len(drawn)
    return [
        operator
        for operator, index in zip(drawn, graph.outputs, strict=True)
        if not np.array_equal(ours[index].ravel(), right[index].ravel())
    ]


def test_two_thousand_random_operators_give_the_bytes_of_litert():
    drawn = draw(CASES)
    assert len(drawn) >= 2_000
    assert {operator.kind for operator in drawn} == set(operator_models.KINDS)
    for start in range(0, len(drawn), TOGETHER):
        assert wrong(drawn[start : start + TOGETHER], "host", optimize="-O1") == []


@pytest.mark.mcu
@pytest.mark.parametrize("name", [name for name, place in board.BOARDS.items() if place.emulated])
def test_random_operators_give_the_bytes_of_litert_on_every_board(name):
    assert wrong(draw(TOGETHER), name) == []

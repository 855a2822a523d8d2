"""Random whole networks: whatever the shapes and joins, the shipped build's bytes are LiteRT's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import net_models
from firmware_bridge.network import read_network
from firmware_bridge.running import check_network
from test_codegen import random_inputs

pytestmark = pytest.mark.slow


@st.composite
def networks(draw) -> bytes:
    shape = tuple(draw(st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 6))))
    net = net_models.Net(
        shape, draw(st.integers(0, 9999)), edge=draw(st.sampled_from(["int8", "uint8", "float32"]))
    )
    at = net.at
    pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from("conv point depthwise residual gate pad max average join".split()))
        taps, stride, dilation = (
            draw(pairs),
            draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
            draw(pairs),
        )
        channels = draw(st.integers(1, 9))
        if kind == "conv":
            at = net.conv(
                at, channels, taps, stride=stride, dilation=dilation if stride == (1, 1) else (1, 1)
            )
        elif kind == "point":
            at = net.conv(at, channels, (1, 1), activation=draw(st.sampled_from([0, 1, 3])))
        elif kind == "depthwise":
            dilation = dilation if stride == (1, 1) else (1, 1)
            at = net.depthwise(at, taps, stride=stride, dilation=dilation, multiplier=draw(st.integers(1, 2)))
        elif kind == "residual":
            at = net.two(
                "ADD", at, net.depthwise(at, (3, 3), activation=0), activation=draw(st.sampled_from([0, 1]))
            )
        elif kind == "gate":
            at = net.two("MUL", at, net.logistic(net.mean(at, keep=True)))
        elif kind == "pad":
            at = net.pad(at, [(0, 0), draw(pairs), draw(pairs), (0, 0)])
        elif kind == "join":
            at = net.concat([at, net.requantize(net.conv(at, channels, (1, 1)), at)])
        else:
            name = {"max": "MAX_POOL_2D", "average": "AVERAGE_POOL_2D"}[kind]
            at = net.pool(name, at, taps, stride, padding=net_models.SAME)
    if draw(st.booleans()):
        return net.finish(net.softmax(net.dense(net.mean(at), 3)))
    flat = net.reshape(at, (1, int(np.prod(net.shapes[at]))))
    return net.finish(net.softmax(net.dense(flat, 3, per_channel=draw(st.booleans()))))


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from([None, 0, 20_000]))
def test_a_random_network_is_exact_on_every_tensor(model, arena):
    network = read_network(model, arena_limit=arena)
    _, compared = check_network(network, "host", random_inputs(network, 8), optimize="-O1")
    assert compared.exact, compared.wrong

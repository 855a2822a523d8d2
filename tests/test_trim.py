"""Operators off a .tflite in place (the profile tests what is left): a file that does not come apart is refused."""

import pytest

from edge_derm.bundle import check_model
from edge_derm.bundle.trim import trim
from edge_derm.errors import ModelError


def test_a_file_whose_two_edges_are_one_vector_does_not_come_apart(tiny_models):
    model = tiny_models["uint8"]
    graph = check_model(model)
    with pytest.raises(ModelError) as caught:  # two inputs do not fit where one was: the outputs lie behind
        trim(model, graph, 1, 2, inputs=(graph.ops[0].outputs[0], 999), outputs=graph.outputs)
    assert caught.value.code == "trim-shared"

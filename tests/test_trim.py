"""Operators off a .tflite in place: what is left computes the same bytes, and what is not a mere sign flip stays."""

import struct

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edge_derm.bundle import check_model
from edge_derm.bundle.trim import trim, without_sign_flip
from edge_derm.errors import ModelError
from edge_derm.runtime import Classifier


def scores(model, tensor, resolver):
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF])
def test_without_its_first_quantize_a_uint8_model_gives_the_same_bytes(tiny_models, tiny_images, resolver):
    whole = tiny_models["uint8"]
    shorter = without_sign_flip(whole)
    before, after = check_model(whole), check_model(shorter)
    assert before.ops[0].name == "QUANTIZE" and [op.name for op in after.ops] == [
        op.name for op in before.ops[1:]
    ]
    assert after.tensor(after.inputs[0]).dtype == "int8" and after.outputs == before.outputs
    for image in tiny_images:
        flipped = (image.astype(np.int16) - 128).astype(np.int8)
        np.testing.assert_array_equal(
            scores(whole, image[np.newaxis], resolver), scores(shorter, flipped[np.newaxis], resolver)
        )


@pytest.mark.parametrize("recipe", ["int8", "int16", "float32"])
def test_a_model_without_a_sign_flip_comes_back_as_it_is(tiny_models, recipe):
    assert without_sign_flip(tiny_models[recipe]) is tiny_models[recipe]


def test_a_quantize_that_also_rescales_stays(tiny_models):
    model = tiny_models["uint8"]
    graph = check_model(model)
    outer, inner = graph.tensor(graph.inputs[0]), graph.tensor(graph.ops[0].outputs[0])
    assert outer.quantization.scale[0] == inner.quantization.scale[0] == 1 / 128
    at = model.index(struct.pack("<If", 1, 1 / 128))  # the first of the two scales
    other = model[: at + 4] + struct.pack("<f", 1 / 64) + model[at + 8 :]
    changed = check_model(other)
    scales = {float(changed.tensor(index).quantization.scale[0]) for index in (outer.index, inner.index)}
    assert scales == {1 / 64, 1 / 128}
    assert without_sign_flip(other) is other


def test_the_classifier_itself_reads_its_pixels_without_the_operator(tiny_models):
    assert Classifier.of(tiny_models["uint8"])._engine.inputs[0].dtype == "int8"


def test_a_file_whose_two_edges_are_one_vector_does_not_come_apart(tiny_models):
    model = tiny_models["uint8"]
    graph = check_model(model)
    with pytest.raises(ModelError) as caught:  # two inputs do not fit where one was: the outputs lie behind
        trim(model, graph, 1, 2, inputs=(graph.ops[0].outputs[0], 999), outputs=graph.outputs)
    assert caught.value.code == "trim-shared"

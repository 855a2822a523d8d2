"""Operators, and a division, off a .tflite in place: what is left computes the same bytes, and whatever else there is stays."""

import struct
from dataclasses import replace

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as fbs
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given
from hypothesis import strategies as st

from edge_derm.bundle import Input, check_model
from edge_derm.bundle.trim import _first_kernel, at_pixels, trim, without_division, without_sign_flip
from edge_derm.errors import BundleError, ModelError
from edge_derm.runtime import Classifier

OURS = Input(32, "float32")


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


@pytest.mark.parametrize("resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_REF])
def test_a_float_model_on_undivided_pixels_gives_the_same_bytes(tiny_models, tiny_images, resolver):
    whole = tiny_models["float32"]
    undivided, shape = at_pixels(whole, OURS)
    assert shape == replace(OURS, std=(1.0,)) and len(undivided) == len(whole)
    for image in tiny_images:
        pixels = image[np.newaxis].astype(np.float32) - 128
        np.testing.assert_array_equal(
            scores(whole, pixels / 128, resolver), scores(undivided, pixels, resolver)
        )
    assert without_division(undivided, shape) == (undivided, shape)


@pytest.mark.parametrize("mean, std", [((127.5,), (127.5,)), ((128.0,), (58.0,)), ((0.0,), (128.0,))])
def test_what_is_not_divided_by_a_power_of_two_stays(tiny_models, mean, std):
    shape = replace(OURS, mean=mean, std=std)
    assert at_pixels(tiny_models["float32"], shape) == (tiny_models["float32"], shape)


def test_weights_that_another_operator_reads_or_that_would_underflow_stay(tiny_models):
    model = tiny_models["float32"]
    graph = check_model(model)
    kernel = graph.tensor(graph.ops[0].inputs[1]).data
    at = model.index(kernel.tobytes())
    tiny = np.full(kernel.shape, 1e-44, "<f4").tobytes()  # a subnormal number loses bits
    assert without_division(model[:at] + tiny + model[at + len(tiny) :], OURS)[1] == OURS
    assert _first_kernel(graph) is not None
    again = replace(graph.ops[1], inputs=graph.ops[0].inputs)
    assert _first_kernel(replace(graph, ops=(graph.ops[0], again, *graph.ops[2:]))) is None


@given(st.binary(max_size=64), st.integers(0, 10**6))
def test_a_damaged_float_model_is_refused_or_scores_as_it_would(tiny_models, junk, place):
    model = tiny_models["float32"]
    place %= len(model)
    damaged = model[:place] + junk + model[place + len(junk) :]
    try:
        check_model(damaged)
    except BundleError:
        return
    changed, shape = at_pixels(damaged, OURS)
    assert (changed == damaged) == (shape == OURS)
    if shape != OURS:
        check_only_the_first_kernel_is_divided(damaged, changed)


def check_only_the_first_kernel_is_divided(before, after):
    """Nothing else that the file holds has changed."""
    old, new = check_model(before), check_model(after)
    kernel = old.ops[0].inputs[1]
    assert [(op.name, op.inputs, op.outputs, op.options) for op in old.ops] == [
        (op.name, op.inputs, op.outputs, op.options) for op in new.ops
    ]
    for one, other in zip(old.tensors, new.tensors):
        assert (one.shape, one.dtype, one.name) == (other.shape, other.dtype, other.name)
        if one.data is not None:
            divided = other.data * np.float32(128) if one.index == kernel else other.data
            assert divided.tobytes() == one.data.tobytes()


def with_a_copy(model, *, same_buffer=False, second_subgraph=False):
    """The model with a further tensor that holds the first kernel's values."""
    whole = fbs.ModelT.InitFromPackedBuf(model, 0)
    graph = whole.subgraphs[0]
    kernel = graph.tensors[graph.operators[0].inputs[1]]
    copy = fbs.TensorT()
    copy.name, copy.shape, copy.type, copy.buffer = b"copy", kernel.shape, kernel.type, kernel.buffer
    copy.quantization = fbs.QuantizationParametersT()
    if not same_buffer:
        copy.buffer = len(whole.buffers)
        whole.buffers.append(fbs.BufferT())
        whole.buffers[-1].data = whole.buffers[kernel.buffer].data
    graph.tensors.append(copy)
    if second_subgraph:
        whole.subgraphs.append(fbs.ModelT.InitFromPackedBuf(model, 0).subgraphs[0])
    builder = flatbuffers.Builder(0)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_weights_that_another_part_of_the_file_may_read_stay(tiny_models):
    model = tiny_models["float32"]
    check_only_the_first_kernel_is_divided(model, at_pixels(model, OURS)[0])
    apart = with_a_copy(model)
    check_only_the_first_kernel_is_divided(apart, at_pixels(apart, OURS)[0])
    shared = with_a_copy(model, same_buffer=True)
    assert at_pixels(shared, OURS) == (shared, OURS)
    twice = with_a_copy(model, second_subgraph=True)
    assert at_pixels(twice, OURS) == (twice, OURS)


def test_two_buffers_of_the_same_bytes_are_not_divided_as_one(tiny_models):
    data = bytearray(with_a_copy(tiny_models["float32"]))
    graph = check_model(bytes(data))
    kernel = graph.tensor(graph.ops[0].inputs[1]).data.tobytes()
    first = bytes(data).index(kernel)
    second = bytes(data).index(kernel, first + 1)
    for at in range(0, second, 4):  # the field that leads to the second vector now leads to the first
        if at + struct.unpack_from("<I", data, at)[0] == second - 4:
            struct.pack_into("<i", data, at, first - 4 - at)
            break
    forged = bytes(data)
    try:
        check_model(forged)
    except BundleError:  # an offset that leads backwards is refused: turn the pair round
        data = bytearray(with_a_copy(tiny_models["float32"]))
        for at in range(0, first, 4):
            if at + struct.unpack_from("<I", data, at)[0] == first - 4:
                struct.pack_into("<I", data, at, second - 4 - at)
        forged = bytes(data)
        check_model(forged)
    assert forged.count(kernel) == 2
    assert at_pixels(forged, OURS) == (forged, OURS)

"""A model that takes the pixels themselves computes the same bytes, whatever else its file holds, or it comes back as it is."""

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
from edge_derm.bundle.graft import add_metadata
from edge_derm.bundle.pixels import at_pixels, with_pixels, without_sign_flip
from edge_derm.bundle.tables import (
    Array,
    Table,
    Vector,
    field,
    item,
    members,
    put_before,
    references,
    u32,
    vector,
)
from edge_derm.errors import BundleError
from edge_derm.runtime import Classifier

OURS = Input(32, "float32")
RESOLVERS = [OpResolverType.AUTO, OpResolverType.BUILTIN_REF]


def scores(model, tensor, resolver):
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("resolver", RESOLVERS)
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


@pytest.mark.parametrize(
    "recipe, dtype", [("uint8", "int8"), ("int8", "int8"), ("float32", "uint8"), ("float16", "uint8")]
)
def test_what_the_classifier_itself_writes(tiny_models, recipe, dtype):
    assert Classifier.of(tiny_models[recipe])._engine.inputs[0].dtype == dtype


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("recipe", ["float32", "float16"])
@pytest.mark.parametrize("mean, std", [((128.0,), (128.0,)), ((0.0,) * 3, (1.0,) * 3), ((3.0,), (0.5,))])
def test_a_float_model_on_stored_pixels_gives_the_same_bytes(
    tiny_models, tiny_images, recipe, mean, std, resolver
):
    whole = tiny_models[recipe]
    stored = at_pixels(whole, replace(OURS, mean=mean, std=std))
    assert stored.endswith(whole) and len(stored) % 64 == len(whole) % 64
    for image in tiny_images:
        real = ((image[np.newaxis] - np.float64(mean[0])) / std[0]).astype(np.float32)
        np.testing.assert_array_equal(
            scores(whole, real, resolver), scores(stored, image[np.newaxis], resolver)
        )


@pytest.mark.parametrize(
    "mean, std",
    [
        ((127.5,), (127.5,)),
        ((128.0,), (58.0,)),
        ((0.0, 1.0, 2.0), (1.0,)),
        ((0.0,), (255.0,)),
        ((256.0,), (1.0,)),
    ],
)
def test_a_normalisation_that_one_scale_cannot_make_exactly_stays(tiny_models, mean, std):
    shape = replace(OURS, mean=mean, std=std)
    assert at_pixels(tiny_models["float32"], shape) is tiny_models["float32"]


def test_only_a_float_input_is_put_behind_pixels(tiny_models):
    assert with_pixels(tiny_models["int8"], OURS) is tiny_models["int8"]
    stored = with_pixels(tiny_models["float32"], OURS)
    assert with_pixels(stored, OURS) is stored


@given(st.binary(max_size=64), st.integers(0, 10**6))
def test_a_damaged_float_model_is_refused_or_stands_behind_its_pixels(tiny_models, junk, place):
    model = tiny_models["float32"]
    place %= len(model)
    damaged = model[:place] + junk + model[place + len(junk) :]
    try:
        check_model(damaged)
    except BundleError:
        return
    check_that_the_rest_is_as_it_was(damaged, at_pixels(damaged, OURS))


def check_that_the_rest_is_as_it_was(before, after):
    """One operator and one tensor more, or the file itself."""
    if after is before:
        return
    old, new = check_model(before), check_model(after)
    assert new.ops[0].name == "DEQUANTIZE" and new.ops[0].outputs == old.inputs and new.outputs == old.outputs
    assert [(op.name, op.inputs, op.outputs, op.options) for op in old.ops] == [
        (op.name, op.inputs, op.outputs, op.options) for op in new.ops[1:]
    ]
    assert len(new.tensors) == len(old.tensors) + 1 and new.inputs == (len(old.tensors),)
    for one, other in zip(old.tensors, new.tensors):
        assert (one.shape, one.dtype, one.name) == (other.shape, other.dtype, other.name)
        if one.data is not None:
            assert other.data.tobytes() == one.data.tobytes()


def rewritten(model, change):
    """The model after ``change`` of its objects, written anew."""
    whole = fbs.ModelT.InitFromPackedBuf(model, 0)
    change(whole)
    builder = flatbuffers.Builder(0)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_what_else_a_file_holds_stays(tiny_models, tiny_images):
    model = tiny_models["float32"]

    def second_subgraph(whole):
        whole.subgraphs.append(fbs.ModelT.InitFromPackedBuf(model, 0).subgraphs[0])

    def no_names(whole):
        whole.subgraphs[0].name = whole.description = whole.signatureDefs = None

    def mapped(name, index):
        made = fbs.TensorMapT()
        made.name, made.tensorIndex = name, index
        return made

    def signature(whole):
        made, graph = fbs.SignatureDefT(), whole.subgraphs[0]
        made.signatureKey = b"serving_default"
        made.inputs, made.outputs = [mapped(b"image", graph.inputs[0])], [mapped(b"scores", graph.outputs[0])]
        whole.signatureDefs = [made]

    for change in (second_subgraph, no_names, signature):
        other = rewritten(model, change)
        stored = at_pixels(other, OURS)
        assert stored is not other
        check_that_the_rest_is_as_it_was(other, stored)
        kept = fbs.ModelT.InitFromPackedBuf(stored, 0)
        assert not kept.signatureDefs  # it named the old input
        assert len(kept.subgraphs) == len(fbs.ModelT.InitFromPackedBuf(other, 0).subgraphs)
        real = tiny_images[:1].astype(np.float32) / 128 - 1
        np.testing.assert_array_equal(
            scores(other, real, RESOLVERS[0]), scores(stored, tiny_images[:1], RESOLVERS[0])
        )


def test_weights_outside_the_tables_would_move_so_the_file_stays(tiny_models):
    def outside(whole):
        whole.buffers[0].offset, whole.buffers[0].size = 64, 4

    model = rewritten(tiny_models["float32"], outside)
    check_model(model)
    assert at_pixels(model, OURS) is model


def test_a_file_may_lack_the_vectors_of_operators_and_of_buffers(tiny_models):
    """A pixel that is its own scores: nothing to compute, nothing stored."""

    def bare(whole):
        graph = whole.subgraphs[0]
        graph.tensors = [graph.tensors[graph.inputs[0]]]
        graph.tensors[0].shape, graph.tensors[0].shapeSignature = np.array([1, 1, 1, 3], np.int32), None
        graph.tensors[0].buffer, graph.inputs, graph.outputs = 0, np.array([0]), np.array([0])
        graph.operators = whole.signatureDefs = None

    def barer(whole):
        bare(whole)
        whole.buffers = whole.metadata = None

    for change in (bare, barer):
        model = rewritten(tiny_models["float32"], change)
        stored = at_pixels(model, OURS)
        assert [op.name for op in check_model(stored).ops] == ["DEQUANTIZE"]
        assert check_model(add_metadata(model, "name", b"data")).metadata["name"] == b"data"
    pixel = np.array([[[3, 128, 255]]], np.uint8)
    classifier = Classifier.of(rewritten(tiny_models["float32"], bare))
    np.testing.assert_array_equal(classifier.raw(pixel), pixel[0] / np.float32(128) - 1)


def test_a_subgraph_with_a_field_newer_than_this_package_stays_as_it_is(tiny_models):
    model = tiny_models["float32"]
    fields = references(model, u32(model, 0), range(1, 8))
    graph = references(model, item(model, fields[2].at, 0), range(5))
    for number, known in ((5, True), (6, False)):
        subgraphs = Vector([Table({**graph, number: 1}, 7)])
        other = put_before(model, Table({0: 3, **fields, 2: subgraphs}, 8))
        check_model(other)
        assert (at_pixels(other, OURS) is not other) == known


def test_operators_that_lie_inside_weights_are_not_trimmed(tiny_models):
    """Taking the first one off would write into a bias."""
    model = tiny_models["uint8"]
    fields = references(model, u32(model, 0), range(1, 8))
    subgraph = item(model, fields[2].at, 0)
    graph, operators = references(model, subgraph, range(5)), members(model, vector(model, subgraph, 3))
    parsed = check_model(model)
    bias = next(
        op for op in parsed.ops if op.name == "CONV_2D" and parsed.tensor(op.inputs[2]).elements == 16
    )
    number = u32(model, field(model, item(model, vector(model, subgraph, 0), bias.inputs[2]), 2))
    buffers = [*members(model, fields[4].at)]
    buffers[number] = Table({0: Array(64, b"\xa5" * 64, alignment=16)}, 1)
    changed = {0: 3, **fields, 2: Vector([Table(graph, 5)]), 4: Vector(buffers)}
    made = bytearray(put_before(model, Table(changed, 8)))
    at, moved = made.index(b"\xa5" * 64), len(made) - len(model)
    offsets = [moved + old.at - (at + 4 + 4 * place) for place, old in enumerate(operators)]
    struct.pack_into(f"<{1 + len(offsets)}I", made, at, len(offsets), *offsets)
    place = field(made, item(made, vector(made, u32(made, 0), 2), 0), 3)
    struct.pack_into("<I", made, place, at - place)
    forged = bytes(made)
    assert [op.name for op in check_model(forged).ops] == [op.name for op in parsed.ops]
    assert without_sign_flip(forged) is forged

"""An input's memory is held only where no run moves it; then what is written there is what the model sees."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings

import operator_models
import tiny_tflite
from edge_derm.bundle import Input
from edge_derm.runtime.backends import load_engine
from edge_derm.runtime.encoding import encoder
from edge_derm.runtime.memory import PLAIN, TOLD, held, stays
from firmware_bridge.tflite import parse


def loaded(model: bytes) -> Interpreter:
    """By the reference kernels: LiteRT's others crash on some depthwise layers that are drawn, held memory or not."""
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    return interpreter


def padded_by_an_input(dtype: str = "int32") -> bytes:
    """float32 [1, 2, 2, 3] and int32 [4, 2] → PAD: the file states a shape, the paddings make another in each run."""
    w = tiny_tflite.Writer()
    image = w.tensor("image", [1, 2, 2, 3], dtype="float32")
    amounts = w.tensor("amounts", [4, 2], dtype=dtype)
    padded = w.tensor("padded", [1, 4, 4, 3], dtype="float32")
    w.op("PAD", [image, amounts], [padded], tiny_tflite.options("Pad"))
    w.graph.inputs, w.graph.outputs = [image, amounts], [padded]
    return tiny_tflite.pack(w)


def in_one_list() -> bytes:
    """float32 [1, 8] → UNIQUE: as many values as there are different ones."""
    w = tiny_tflite.Writer()
    image = w.tensor("image", [8], dtype="float32")
    found = w.tensor("found", [8], dtype="float32")
    places = w.tensor("places", [8], dtype="int32")
    w.op("UNIQUE", [image], [found, places], tiny_tflite.options("Unique", idxOutType=2))
    w.graph.inputs, w.graph.outputs = [image], [found, places]
    return tiny_tflite.pack(w)


@settings(max_examples=60, deadline=None)
@given(operator_models.operators())
def test_runs_move_no_input_of_a_model_that_stays(operator):
    model = operator_models.build([operator])
    graph = parse(model)
    assert {op.name for op in graph.ops} <= PLAIN | TOLD and stays(graph)
    own, ours = loaded(model), loaded(model)
    details = ours.get_input_details()
    memory = [held(ours, detail["index"]) for detail in details]
    rng = np.random.default_rng(operator.seed)
    for _ in range(3):
        for place, detail in zip(memory, details):
            values = rng.integers(-128, 128, detail["shape"]).astype(detail["dtype"])
            own.set_tensor(detail["index"], values)
            np.copyto(place, values)
        own.invoke()
        ours.invoke()
        for detail in ours.get_output_details():
            np.testing.assert_array_equal(
                ours.get_tensor(detail["index"]),
                own.get_tensor(detail["index"]),
                strict=True,
            )
        addresses = [ours.tensor(detail["index"])().ctypes.data for detail in details]
        assert addresses == [place.ctypes.data for place in memory]


@pytest.mark.parametrize("make", [tiny_tflite.classifier, tiny_tflite.residual, tiny_tflite.edges])
def test_classifiers_stay(make):
    assert stays(parse(tiny_tflite.pack(make())))


def test_our_exports_stay_also_as_batches(tiny_models):
    for name, model in tiny_models.items():
        assert stays(parse(model)), name
        assert load_engine(model, batch=3)._held[0].shape == (3, 32, 32, 3)


def test_shapes_that_are_known_in_a_run_alone_are_asked_for_in_each():
    model = padded_by_an_input()
    assert not stays(parse(model))
    engine, image = load_engine(model), np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    for amount in (0, 1, 300, 2):

        def write(pixels, amounts, amount=amount):
            pixels[...] = image
            amounts[...] = [[0, 0], [amount, amount], [amount, amount], [0, 0]]

        (made,) = engine.run(write)
        expected = np.pad(image, [(0, 0), (amount, amount), (amount, amount), (0, 0)])
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_whatever_type_tells_a_shape_has_to_be_in_the_file(dtype):
    assert not stays(parse(padded_by_an_input(dtype)))


def test_an_operator_whose_output_depends_on_values_does_not_stay():
    model = in_one_list()
    assert not stays(parse(model))
    found, places = load_engine(model).run(lambda values: np.copyto(values, [3, 3, 1, 3, 2, 1, 1, 2]))
    assert found.tolist() == [3, 1, 2] and places.tolist() == [0, 0, 1, 0, 2, 1, 1, 2]


def test_a_bound_run_is_a_run(tiny_models, tiny_images):
    for model in tiny_models.values():
        engine = load_engine(model)
        write = encoder(Input(32, engine.inputs[0].dtype), engine.inputs[0])
        infer = engine.bind(write)
        for image in tiny_images:
            expected = load_engine(model).run(write, image[np.newaxis])[0]
            np.testing.assert_array_equal(infer(image[np.newaxis]), expected, strict=True)
    infer = load_engine(in_one_list()).bind(lambda values, view: np.copyto(view, values))
    assert infer(np.array([3, 3, 1, 3, 2, 1, 1, 2], np.float32)).tolist() == [3, 1, 2]


def test_memory_that_is_held_outlives_whoever_opened_the_model(tiny_int8):
    interpreter = loaded(tiny_int8)
    alive, memory = weakref.ref(interpreter), held(interpreter, interpreter.get_input_details()[0]["index"])
    del interpreter
    gc.collect()
    assert alive() is not None
    memory[...] = 7
    assert (memory == 7).all()
    del memory
    gc.collect()
    assert alive() is None

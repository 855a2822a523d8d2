"""The reader and its summary against LiteRT, TensorFlow's own schema and arithmetic written out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.graph import FormatError
from firmware_bridge.summary import summarize
from firmware_bridge.tflite import parse

HERE = Path(__file__).parent


@pytest.mark.parametrize("recipe", ["int8", "uint8", "int16", "float32"])
def test_tensors_and_edges_are_what_litert_sees(tiny_models, recipe):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    data = tiny_models[recipe]
    graph = parse(data)
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    assert list(graph.inputs) == [d["index"] for d in interpreter.get_input_details()]
    assert list(graph.outputs) == [d["index"] for d in interpreter.get_output_details()]
    for detail in interpreter.get_tensor_details():
        if detail["index"] >= len(graph.tensors):
            continue  # the interpreter's own temporaries
        tensor = graph.tensor(detail["index"])
        assert tensor.name == detail["name"] and np.dtype(tensor.dtype) == detail["dtype"]
        assert tuple(abs(n) for n in tensor.shape) == tuple(detail["shape"])
        scales = detail["quantization_parameters"]["scales"]
        if len(scales):
            assert np.array_equal(tensor.quantization.scale, scales)
            assert np.array_equal(
                tensor.quantization.zero_point, detail["quantization_parameters"]["zero_points"]
            )
        if tensor.data is not None:
            assert np.array_equal(
                np.asarray(tensor.data).reshape(tensor.shape), interpreter.get_tensor(detail["index"])
            )
    names = [op["op_name"] for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
    assert [op.name for op in graph.ops] == names[: len(graph.ops)]


def test_macs_and_parameters_of_the_tiny_model_by_hand(tiny_int8):
    summary = summarize(parse(tiny_int8))
    conv = 16 * 16 * (3 * 3 * 3 * 8)  # 32 px halved once
    depthwise = 16 * 16 * (3 * 3 * 8)
    pointwise = 16 * 16 * (8 * 16)
    head = 16 * 4
    assert summary.macs == conv + depthwise + pointwise + head
    weights = 27 * 8 + 9 * 8 + 8 * 16 + 16 * 4
    biases = 8 + 8 + 16 + 4
    assert summary.parameters == weights + biases
    assert (
        summary.operators["DEPTHWISE_CONV_2D"] == 1
        and summary.dilated_depthwise == 1
        and summary.arithmetic == "int8"
    )
    assert not summary.warnings


def test_a_float_model_and_uint8_edges_are_described(tiny_float, tiny_uint8):
    assert summarize(parse(tiny_float)).arithmetic == "float32"
    edge = summarize(parse(tiny_uint8)).inputs[0]
    assert (edge.dtype, edge.scale, edge.zero_point) == ("uint8", 1 / 128, 128)


def test_every_prefix_of_a_file_is_refused_or_whole(tiny_int8):
    for cut in list(range(0, 200)) + list(range(200, len(tiny_int8), 97)):
        with pytest.raises(FormatError) as caught:
            parse(tiny_int8[:cut])
        assert caught.value.code and "\n" not in str(caught.value)


@pytest.mark.slow
def test_thousands_of_mutations_end_in_a_named_error_or_a_sound_graph():
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz_tflite.py"), "--mutations", "4000", "--seed", "11"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    record = json.loads(done.stdout)
    assert record["mutations"] == 4000 and record["accepted"] + sum(record["refused"].values()) == 4000

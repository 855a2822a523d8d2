"""firmware-bridge tflm: what people with TensorFlow Lite Micro copy into their project, and what it takes there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware_bridge import board, cli, tflm
from firmware_bridge.graph import BridgeError, UnsupportedError
from firmware_bridge.tflite import parse
from firmware_bridge.tflm_probe import load_runtime
from tiny_tflite import classifier, pack, residual

MODELS = Path(os.environ.get("EDGE_DERM_MODELS", Path(__file__).parents[2] / "shared/models"))

# Read off micro_mutable_op_resolver.h of TensorFlow Lite Micro.
METHODS = """AddAdd AddAddN AddArgMax AddAveragePool2D AddBatchToSpaceNd AddConcatenation AddConv2D AddCumSum
    AddDepthToSpace AddDepthwiseConv2D AddDequantize AddExpandDims AddFullyConnected AddGatherNd AddHardSwish
    AddL2Normalization AddL2Pool2D AddLeakyRelu AddLogistic AddMaxPool2D AddMean AddMul AddPad AddPadV2 AddPrelu
    AddQuantize AddReduceMax AddRelu AddRelu6 AddReshape AddResizeBilinear AddResizeNearestNeighbor AddSoftmax
    AddSpaceToBatchNd AddSpaceToDepth AddSplit AddSplitV AddSqueeze AddStridedSlice AddTanh AddTransposeConv""".split()
SCHEMA = """ADD ADD_N ARG_MAX AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION CONV_2D CUMSUM
    DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE EXPAND_DIMS FULLY_CONNECTED GATHER_ND HARD_SWISH
    L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN MUL PAD PADV2 PRELU
    QUANTIZE REDUCE_MAX RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SOFTMAX
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TANH TRANSPOSE_CONV""".split()


def has_wheel() -> bool:
    try:
        load_runtime()
    except ImportError:
        return False
    return True


needs_wheel = pytest.mark.skipif(not has_wheel(), reason=f"not installed: {tflm.WHEEL}")


def run(model: bytes, tmp_path, *options: str) -> dict:
    (tmp_path / "model.tflite").write_bytes(model)
    arguments = [
        "tflm",
        str(tmp_path / "model.tflite"),
        "--out",
        str(tmp_path / "out"),
        "--json",
        "-",
        *options,
    ]
    result = CliRunner().invoke(cli.cli, arguments)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.output)


def test_resolver_methods_are_those_of_the_header():
    assert [tflm.add_method(name) for name in SCHEMA] == METHODS


@pytest.mark.parametrize("compiler, name", [("gcc", "net"), ("clang", "skin_2")])
def test_the_array_is_the_model_in_c_and_in_cpp(tmp_path, compiler, name):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    model = pack(classifier())
    run(model, tmp_path, "--name", name)
    out = tmp_path / "out"
    (out / "main.c").write_text(f"""
#include <stdio.h>
#include "{name}_model.h"
int main(void) {{ return fwrite({name}_model, 1, sizeof {name}_model, stdout) == {len(model)} ? 0 : 1; }}
""")
    subprocess.run([compiler, *board.STRICT, "main.c", f"{name}_model.c", "-o", "main"], cwd=out, check=True)
    assert subprocess.run([out / "main"], capture_output=True, check=True).stdout == model
    if compiler == "clang":
        cpp = ["clang", "-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        subprocess.run([*cpp, "-include", f"{name}_model.h", f"{name}_model.c"], cwd=out, check=True)


def test_the_resolver_has_exactly_the_models_operators(tmp_path):
    record = run(pack(residual()), tmp_path)
    graph = parse(pack(residual()))
    assert record["operators"] == {op.name: sum(o.name == op.name for o in graph.ops) for op in graph.ops}
    header = (tmp_path / "out" / "net_ops.h").read_text()
    assert f"MicroMutableOpResolver<{len(record['operators'])}>" in header
    assert header.count("resolver.Add") == len(record["operators"])


def test_the_resolver_header_is_cpp_that_compiles_against_its_interface(tmp_path):
    """Against the part of TensorFlow Lite Micro's header that it uses, with the method names read off there."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    run(pack(classifier()), tmp_path)
    folder = tmp_path / "tensorflow/lite/micro"
    folder.mkdir(parents=True)
    methods = "\n".join(f"  TfLiteStatus {method}() {{ return kTfLiteOk; }}" for method in METHODS)
    (folder / "micro_mutable_op_resolver.h").write_text(f"""
enum TfLiteStatus {{ kTfLiteOk, kTfLiteError }};
#define TF_LITE_ENSURE_STATUS(a) do {{ const TfLiteStatus s = (a); if (s != kTfLiteOk) return s; }} while (0)
namespace tflite {{ template <unsigned int count> struct MicroMutableOpResolver {{
{methods}
}}; }}
""")
    use = tmp_path / "use.cc"
    use.write_text('#include "out/net_ops.h"\nint main() { NetOpResolver r; return NetRegisterOps(r); }\n')
    cpp = ["clang", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{tmp_path}", str(use)]
    subprocess.run(cpp, check=True)


@needs_wheel
@pytest.mark.parametrize("name, quoted", [("vww_96_int8", 100_708), ("kws_ref_model", 22_820)])
def test_the_arena_is_what_a_board_took_plus_wider_pointers(tmp_path, name, quoted):
    """Measured on a Cortex-M7 by others; this machine's pointers are twice as wide."""
    if not MODELS.is_dir():
        pytest.skip(f"no {MODELS}")
    model = (MODELS / f"{name}.tflite").read_bytes()
    arena = run(model, tmp_path)["arena_bytes"]
    assert quoted < arena < 1.08 * quoted
    assert f"kNetArenaBytes = {arena};" in (tmp_path / "out" / "net_ops.h").read_text()


@needs_wheel
def test_a_model_the_interpreter_refuses_or_dies_of_is_null_with_the_reason(tmp_path):
    broken = classifier()
    broken.graph.tensors[broken.graph.operators[0].inputs[1]].quantization.scale = None
    graph = parse(pack(classifier()))
    arena = tflm.measure_arena(pack(broken), graph)
    assert arena.total is None and arena.reason and "TensorFlow Lite Micro" in arena.reason
    assert (
        tflm.measure_arena(b"no model at all" * 9, graph).total is None
    )  # the wheel aborts or reads outside here
    late = tflm.measure_arena(pack(classifier()), graph, timeout_s=0.001)
    assert late.total is None and "not finished" in str(late.reason)


def test_without_the_wheel_the_arena_is_null_with_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "executable", _python_without_packages())
    model = pack(classifier())
    arena = tflm.measure_arena(model, parse(model))
    assert arena.total is None and tflm.WHEEL in str(arena.reason)


def _python_without_packages() -> str:
    return getattr(sys, "_base_executable", sys.executable)


def test_the_same_model_gives_the_same_bytes_and_foreign_folders_are_left_alone(tmp_path):
    model = pack(classifier())
    run(model, tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run(model, tmp_path)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "net_ops.h").rename(tmp_path / "out" / "mine.h")
    with pytest.raises(BridgeError) as caught:
        run(model, tmp_path)
    assert caught.value.code == "folder-not-ours" and (tmp_path / "out" / "mine.h").is_file()


def test_an_operator_without_a_kernel_is_named_with_its_tensor():
    graph = parse(pack(classifier()))
    op = graph.ops[1]
    strange = type(op)(op.index, "STABLEHLO_WHILE", op.inputs, op.outputs)
    changed = type(graph)(graph.name, graph.tensors, (graph.ops[0], strange), graph.inputs, graph.outputs)
    with pytest.raises(
        UnsupportedError, match="operator 1 STABLEHLO_WHILE.*" + graph.tensor(op.outputs[0]).name
    ):
        tflm.list_operators(changed)


@pytest.mark.parametrize("name", ["", "Net", "2net", "a b", "a" * 41, "a-b"])
def test_a_name_that_is_no_identifier_is_refused(tmp_path, name):
    with pytest.raises(BridgeError) as caught:
        run(pack(classifier()), tmp_path, "--name", name)
    assert caught.value.code == "name" and not (tmp_path / "out").exists()

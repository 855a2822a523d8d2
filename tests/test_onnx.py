"""The ONNX recipe and its engines: the same scores as the .tflite, hostile files refused before native code, clear words."""

import json
import subprocess
import sys
import time

import jsonschema
import numpy as np
import pytest

from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.bundle.onnx import check_onnx
from edge_derm.errors import BackendError, BundleError, ModelError
from edge_derm.measure import local
from edge_derm.measure.record import schema
from edge_derm.runtime import Classifier, load_engine
from edge_derm.runtime import onnx as engines

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def model(weights=None, *, shape=(1, 8, 8, 3), kind=onnx.TensorProto.FLOAT):
    """Mean colour times a matrix, softmax: the arithmetic is written out below."""
    if weights is None:
        weights = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, (1, 4))],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("backend", ["onnxruntime", "opencv"])
def test_an_engine_computes_the_written_out_arithmetic(backend):
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    weights = np.arange(12, dtype=np.float64).reshape(3, 4) / 7
    logits = image.astype(np.float64).mean(axis=(1, 2)) @ weights
    expected = np.exp(logits) / np.exp(logits).sum()
    engine = load_engine(model().SerializeToString(), backend=backend)
    assert engine.inputs[0].shape == (1, 8, 8, 3) and engine.outputs[0].shape == (1, 4)
    for _ in range(2):  # the engine's own tensor is used again
        scores = engine.run(lambda view: np.copyto(view, image))[0]
        assert np.abs(scores - expected).max() < 1e-5


def external(made):
    tensor = made.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return made


def two_inputs(made):
    made.graph.input.append(onnx.helper.make_tensor_value_info("second", 1, (1, 2)))
    return made


WRONG = {
    "empty": (b"", "onnx-malformed"),
    "text": (b"nothing of the kind " * 9, "onnx-malformed"),
    "cut": (model().SerializeToString()[:-7], "onnx-malformed"),
    "endless-number": (b"\xff" * 40, "onnx-malformed"),
    "outside-weights": (external(model()).SerializeToString(), "onnx-external"),
    "two-inputs": (two_inputs(model()).SerializeToString(), "onnx-interface"),
    "half-floats": (model(kind=onnx.TensorProto.FLOAT16).SerializeToString(), "onnx-interface"),
    "free-batch": (model(shape=("n", 8, 8, 3)).SerializeToString(), "onnx-interface"),
    "not-square": (model(shape=(1, 8, 9, 3)).SerializeToString(), "onnx-interface"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("backend", ["onnxruntime", "opencv"])
def test_a_file_that_is_not_what_it_must_be_never_reaches_native_code(name, backend):
    data, code = WRONG[name]
    with pytest.raises(BundleError, match="model.onnx: expected") as caught:
        load_engine(data, backend=backend)
    assert caught.value.code == code


def test_two_thousand_damaged_files_each_get_a_named_error_or_pass_the_check():
    rng, whole = np.random.default_rng(0), np.frombuffer(model().SerializeToString(), np.uint8)
    refused = 0
    for _ in range(2_000):
        damaged = whole.copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        try:
            given, made = check_onnx(damaged.tobytes())
            assert len(given.shape) == 4 and len(made.shape) == 2
        except BundleError as error:
            refused += error.code.startswith("onnx-")
    assert refused > 300


def test_what_these_engines_cannot_do_is_said(tiny_float, tiny_bundle):
    data = model().SerializeToString()
    for options, code in (
        ({"kernels": "reference"}, "kernels-unknown"),
        ({"batch": 8}, "batch-invalid"),
    ):
        with pytest.raises(BackendError) as caught:
            load_engine(data, backend="onnxruntime", **options)
        assert caught.value.code == code
    with pytest.raises(BackendError, match="--recipe onnx") as caught:
        Classifier.of(tiny_float, backend="onnxruntime")
    assert caught.value.code == "onnx-missing"
    with pytest.raises(BackendError, match="--recipe onnx") as caught:
        Classifier.open(tiny_bundle, backend="opencv")
    assert caught.value.code == "onnx-missing"


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_gpu_that_is_not_there_is_named_and_nothing_falls_back_in_silence(backend):
    import onnxruntime

    if engines.PROVIDERS[backend] in onnxruntime.get_available_providers():
        pytest.skip("this machine has the GPU")
    with pytest.raises(BackendError, match="ExecutionProvider.*JetPack 6.*own wheel") as caught:
        load_engine(model().SerializeToString(), backend=backend)
    assert caught.value.code == "provider-missing"


def test_the_first_build_of_an_engine_is_visible_and_a_cached_one_is_quiet(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = engines.engine_cache(b"a model", "1.0")
    assert cache.is_relative_to(tmp_path) and cache != engines.engine_cache(b"another", "1.0")
    with engines.building(cache, every_s=0.05):
        time.sleep(0.3)
        (cache / "x.engine").write_bytes(b"built")
    said = capsys.readouterr().err.splitlines()
    assert "once for this model" in said[0] and "is built" in said[-1] and len(said) >= 4
    with engines.building(engines.engine_cache(b"a model", "1.0")):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_dilated_network_as_onnx_scores_like_its_tflite(tmp_path):
    """Through the command line: a fresh d1 network, exported, in both engines, against LiteRT."""
    script = (
        "import sys, keras; from edge_derm.modeling.architecture import build; "
        "keras.utils.set_random_seed(1); build({'dw1': 2}, classes=4, alpha=0.25, size_px=32).save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "m.keras")], check=True)
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    command = [
        sys.executable,
        "-c",
        "from edge_derm.cli import main; main()",
        "export",
        tmp_path / "m.keras",
        "--recipe",
    ]
    command += ["onnx", "--labels", tmp_path / "labels.txt", "--out", tmp_path / "b.bundle", "--json", "-"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record, bundle = json.loads(done.stdout), open_bundle(tmp_path / "b.bundle")
    assert record["onnx_bytes"] == len(bundle.part("model.onnx")) and record["recipe"] == "onnx"
    nodes = onnx.load_from_string(bundle.part("model.onnx")).graph.node
    dilated = [a for n in nodes for a in n.attribute if a.name == "dilations" and list(a.ints) == [2, 2]]
    assert len(dilated) == record["dilated_depthwise"] >= 1
    assert not {node.op_type for node in nodes} & {"SpaceToDepth", "DepthToSpace", "BatchNormalization"}
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected = Classifier.open(bundle).predict(images)
    for backend in ("onnxruntime", "opencv"):
        classifier = Classifier.open(bundle, backend=backend)
        assert np.abs(classifier.predict(images) - expected).max() < 1e-5
        record = local.bench(bundle.path, backend=backend, runs=50)
        jsonschema.validate(record, schema())
        assert record["parity"]["default"]["absolute"] < 1e-5
        assert record["memory"]["model_bytes"] == len(bundle.part("model.onnx"))
        assert (
            record["memory"]["peak_rss_bytes"] < 60e6
        )  # the package itself, tens of megabytes, is not the model's
    damaged = update_bundle(bundle, parts={"model.onnx": ("onnx", b"broken")})
    with pytest.raises(BundleError):
        Classifier.open(damaged, backend="onnxruntime")


@pytest.mark.slow
def test_without_tf2onnx_the_line_that_installs_it_is_given(monkeypatch, tiny_float):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from edge_derm.modeling.onnx import from_tflite

    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ModelError, match=r"edge-derm\[onnx\]") as caught:
        from_tflite(tiny_float)
    assert caught.value.code == "onnx-missing"

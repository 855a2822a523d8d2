"""Weights out of a .tflite file make the file's own network, in inference and in training."""

import os
from pathlib import Path

import numpy as np
import pytest

from edge_derm.errors import ModelError
from firmware_bridge.tflite import parse
from pictures import varied_images

keras = pytest.importorskip("keras", reason="Keras is not installed")
from edge_derm.modeling import architecture, export, pretrained  # noqa: E402

MODELS = Path(os.environ.get("EDGE_DERM_MODELS", Path(__file__).parents[2] / "shared/models"))
QUANTISED = MODELS / "imagenet/mobilenet_v1_0.25_128_quant.tflite"
PIXELS = varied_images(24)


@pytest.fixture(scope="module")
def parent():
    """A network with batch norms as training leaves them: nothing at its default."""
    model = architecture.build({"dw1": 2}, size_px=32, classes=3)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [
                    rng.uniform(0.5, 2, shape),
                    rng.normal(0.5, 0.5, shape),
                    rng.normal(0, 0.1, shape),
                    rng.uniform(0.01, 0.5, shape),
                ]
            )
    return model


def features(model, *, training=False):
    pool = keras.Model(model.input, model.get_layer("pool").output)
    return np.asarray(pool(PIXELS.astype(np.float32) / 128 - 1, training=training))


@pytest.mark.slow
def test_a_float_file_gives_back_its_network(parent, tmp_path):
    (tmp_path / "float.tflite").write_bytes(export.export(parent, recipe="float32").model)
    fresh = architecture.build({"dw1": 2}, size_px=32, classes=5)
    pretrained.start_from(fresh, tmp_path / "float.tflite", PIXELS)
    wanted = features(parent)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(features(fresh), wanted, atol=2e-4)
    # normalised by the batch itself it starts from the same place, because the statistics are the pictures' own
    np.testing.assert_allclose(features(fresh, training=True), wanted, atol=2e-3)


@pytest.mark.slow
def test_a_byte_file_gives_back_what_its_interpreter_computes():
    """The oracle is LiteRT on the quantised file itself, its bytes read at the pooling."""
    if not QUANTISED.is_file():
        pytest.skip(f"{QUANTISED} is missing: it is kept beside the project")
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    graph = parse(QUANTISED.read_bytes())
    pool = graph.tensor(next(op for op in graph.ops if op.name == "AVERAGE_POOL_2D").outputs[0])
    pixels = varied_images(16).repeat(4, axis=1).repeat(4, axis=2)
    interpreter = Interpreter(
        str(QUANTISED),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    wanted = []
    for image in pixels:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        wanted.append(interpreter.get_tensor(pool.index).ravel().astype(np.float32))
    wanted = (np.array(wanted) - pool.quantization.zero_point) * pool.quantization.scale
    model = architecture.build({}, size_px=128, classes=2)
    pretrained.start_from(model, QUANTISED, pixels)
    got = keras.Model(model.input, model.get_layer("pool").output).predict_on_batch(
        pixels.astype(np.float32) / 128 - 1
    )
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


def test_files_that_do_not_fit_are_refused_by_name(parent, tmp_path, tiny_int8):
    (tmp_path / "text.tflite").write_text("x")
    (tmp_path / "other.tflite").write_bytes(tiny_int8)
    for name, code in {
        "absent": "weights-missing",
        "text": "weights-broken",
        "other": "weights-shape",
    }.items():
        before = parent.get_weights()
        with pytest.raises(ModelError) as caught:
            pretrained.start_from(parent, tmp_path / f"{name}.tflite", PIXELS)
        assert caught.value.code == code
        assert all(np.array_equal(a, b) for a, b in zip(before, parent.get_weights()))

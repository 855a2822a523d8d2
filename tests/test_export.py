"""Export: one dilated operator, exact pixels at the edge, and a check that refuses degraded products."""

import contextlib
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
from edge_derm.data import open_dataset  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import architecture, runs, export as exporting  # noqa: E402
from edge_derm.modeling.inspection import check_product  # noqa: E402
from edge_derm.modeling.scoring import probabilities  # noqa: E402
from edge_derm.quiet import quiet_native  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402

DILATION = {"conv1": 2, "dw1": 2, "dw3": 3}
RATES = {("CONV_2D", 2): 1, ("DEPTHWISE_CONV_2D", 2): 1, ("DEPTHWISE_CONV_2D", 3): 1}


@pytest.fixture(scope="module")
def pixels():
    return open_dataset("synthetic:40").images(48)


@pytest.fixture(scope="module")
def model():
    """A dilated model whose batch norms are not the identity, so that folding shows."""
    made = architecture.build(DILATION, size_px=48, classes=4)
    rng = np.random.default_rng(1)
    for layer in made.layers:
        if layer.name.endswith("_bn"):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, gamma.shape),
                    rng.normal(0, 0.2, beta.shape),
                    rng.normal(0, 0.1, mean.shape),
                    rng.uniform(0.5, 2, variance.shape),
                ]
            )
    return made


@pytest.fixture(scope="module")
def products(model, pixels):
    chosen = [
        ("float32", None),
        ("float16", None),
        ("dynamic", None),
        ("int8", "int8"),
        ("int8", "uint8"),
        ("int8", "float32"),
        ("int16x8", None),
    ]
    return {(r, io): exporting.export(model, recipe=r, io=io, calibration=pixels) for r, io in chosen}


@pytest.mark.slow
def test_every_dilated_layer_is_one_operator_in_every_recipe(products):
    for product in products.values():
        assert product.dilated_depthwise == 2
        names = set(product.summary.operators)
        assert not names & {"SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "MUL", "ADD"}
        assert (
            product.summary.operators["DEPTHWISE_CONV_2D"] == 13
            and product.summary.operators["CONV_2D"] == 14
        )


@pytest.mark.slow
def test_the_float_file_equals_keras(products, model, pixels):
    found = Classifier.of(products["float32", None].model).predict(pixels)
    assert np.abs(found - probabilities(model, pixels)).max() <= 1e-5


@pytest.mark.slow
def test_the_edges_are_what_was_asked_for_and_agree(products, pixels):
    outputs = {}
    for io in ("int8", "uint8", "float32"):
        product = products["int8", io]
        assert (product.input_dtype, product.output_dtype) == (io, io)
        outputs[io] = Classifier.of(product.model, kernels="reference").predict(pixels)
    assert np.array_equal(outputs["int8"], outputs["uint8"])
    assert np.abs(outputs["int8"] - outputs["float32"]).max() <= 1 / 256


@pytest.mark.slow
def test_a_uint8_input_is_the_pixel_and_an_int8_input_the_pixel_less_128(products):
    for io, zero_point in (("uint8", 128), ("int8", 0)):
        edge = products["int8", io].summary.inputs[0]
        assert edge.scale == 1 / 128 and edge.zero_point == zero_point


@pytest.mark.slow
def test_the_stock_path_is_refused_by_the_check(model, pixels):
    """Keras' own dilated layers through Keras' own converter: the degraded graph that the check exists for."""
    with quiet_native(everything=True), contextlib.redirect_stdout(StringIO()):
        stock = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    with pytest.raises(ModelError) as caught:
        check_product(stock, recipe="float32", io="float32", rates=RATES)
    assert caught.value.code == "product-batch-space"


@pytest.mark.slow
def test_the_check_counts_rates_and_types(products):
    data = products["int8", "int8"].model
    for change, code in (
        ({"rates": {**RATES, ("CONV_2D", 2): 0}}, "product-dilation"),
        ({"rates": {**RATES, ("DEPTHWISE_CONV_2D", 2): 2}}, "product-dilation"),
        ({"rates": {}}, "product-dilation"),
        ({"io": "uint8"}, "product-io"),
    ):
        with pytest.raises(ModelError) as caught:
            check_product(data, **{"recipe": "int8", "io": "int8", "rates": RATES, **change})
        assert caught.value.code == code
    with pytest.raises(ModelError) as caught:
        check_product(products["float32", None].model, recipe="int8", io="float32", rates=RATES)
    assert caught.value.code == "product-float"
    with pytest.raises(ModelError) as caught:
        check_product(b"TFL3", recipe="int8", io="int8", rates={})
    assert caught.value.code == "product-broken"


def classifier(*middle, last="softmax"):
    """Someone's small Keras classifier of 48 px images around the given layers."""
    image = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    for layer in middle:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, activation=last)(x))


def nested_part():
    x = image = keras.Input((24, 24, 8))
    x = keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, use_bias=False)(x)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    return keras.Model(image, x)


THEIRS = {
    "biased": lambda: [
        keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, activation="relu", use_bias=True)
    ],
    "valid": lambda: [keras.layers.DepthwiseConv2D(3, dilation_rate=2)],
    "multiplied": lambda: [
        keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, depth_multiplier=2)
    ],
    "separable": lambda: [
        keras.layers.SeparableConv2D(8, 3, padding="same", dilation_rate=2, activation="relu")
    ],
    "nested": lambda: [nested_part()],
    "whole": lambda: [
        keras.layers.Conv2D(8, 3, padding="same", dilation_rate=3, use_bias=False),
        keras.layers.BatchNormalization(),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", THEIRS)
def test_anyones_dilated_classifier_is_fused_too(kind, pixels):
    theirs = classifier(*THEIRS[kind]())
    product = exporting.export(theirs, recipe="float32")
    assert product.dilated_depthwise == (kind != "whole")
    assert not {"SPACE_TO_BATCH_ND", "MUL", "ADD"} & set(product.summary.operators)
    assert np.abs(Classifier.of(product.model).predict(pixels) - probabilities(theirs, pixels)).max() <= 1e-5


@pytest.mark.slow
def test_logits_get_a_softmax_and_independent_scores_are_refused(pixels, tmp_path):
    theirs = classifier(last=None)
    logits = probabilities(theirs, pixels).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    product = exporting.export(theirs, recipe="float32")
    assert np.abs(Classifier.of(product.model).predict(pixels) - expected).max() <= 1e-5
    theirs.save(tmp_path / "theirs.keras")
    assert np.allclose(probabilities(runs.load(tmp_path / "theirs.keras")[0], pixels), expected, atol=1e-5)
    with pytest.raises(ModelError) as caught:
        exporting.export(classifier(last="sigmoid"), recipe="float32")
    assert caught.value.code == "keras-output"


@pytest.mark.slow
def test_a_fixed_batch_is_no_prison(products, pixels):
    """Batch 1 is what the file says; LiteRT resizes it, on its fast int8 kernels too, to the same bytes."""
    for key in (("int8", "int8"), ("float32", None)):
        one = Classifier.of(products[key].model).predict(pixels[:6])
        assert np.allclose(
            Classifier.of(products[key].model, batch=3).predict(pixels[:6]), one, atol=1e-6, rtol=0
        )


# An untrained network says nothing: biases make its classes differ.
QUIET = """
import numpy as np
from edge_derm.modeling import architecture, export
model = architecture.build({"dw1": 2}, size_px=32, classes=3)
pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
model.get_layer("logits").set_weights([np.random.default_rng(1).normal(0, 1, (256, 3)), np.arange(3.0)])
export.export(model, recipe="int8", calibration=pixels)
"""


@pytest.mark.slow
def test_the_converter_tells_the_terminal_nothing():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "choice, code",
    [
        ({"recipe": "int4"}, "recipe-unknown"),
        ({"recipe": "float32", "io": "int8"}, "recipe-io"),
        ({"recipe": "int8"}, "calibration-missing"),
    ],
)
def test_impossible_choices_are_refused(model, choice, code):
    with pytest.raises(ModelError) as caught:
        exporting.export(model, **choice)
    assert caught.value.code == code


def test_models_that_are_no_classifiers_are_refused():
    image = keras.Input((48, 32, 3))
    with pytest.raises(ModelError) as caught:
        exporting.input_size(
            keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(image)))
        )
    assert caught.value.code == "keras-interface"

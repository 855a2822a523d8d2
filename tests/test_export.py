"""Export: one dilated operator, exact pixels at the edge, and a check that refuses degraded products."""

import contextlib
from io import StringIO

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
from edge_derm.data import open_dataset  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import architecture, export as exporting  # noqa: E402
from edge_derm.modeling.inspection import check_product  # noqa: E402
from edge_derm.modeling.training import probabilities  # noqa: E402
from edge_derm.quiet import quiet_native  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402

DILATION = {"conv1": 2, "dw1": 2, "dw3": 3}


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
        check_product(stock, recipe="float32", io="float32", rates=[2, 3])
    assert caught.value.code == "product-batch-space"


@pytest.mark.slow
def test_the_check_counts_rates_and_types(products):
    data = products["int8", "int8"].model
    for change, code in (
        ({"rates": [2]}, "product-dilation"),
        ({"rates": [2, 2]}, "product-dilation"),
        ({"io": "uint8"}, "product-io"),
    ):
        with pytest.raises(ModelError) as caught:
            check_product(data, **{"recipe": "int8", "io": "int8", "rates": [2, 3], **change})
        assert caught.value.code == code
    with pytest.raises(ModelError) as caught:
        check_product(products["float32", None].model, recipe="int8", io="float32", rates=[2, 3])
    assert caught.value.code == "product-float"
    with pytest.raises(ModelError) as caught:
        check_product(b"TFL3", recipe="int8", io="int8", rates=[])
    assert caught.value.code == "product-broken"


@pytest.mark.slow
def test_anyones_dilated_classifier_is_fused_too(pixels):
    image = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    x = keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2, activation="relu", use_bias=True)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    theirs = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    product = exporting.export(theirs, recipe="float32")
    assert product.dilated_depthwise == 1
    assert np.abs(Classifier.of(product.model).predict(pixels) - probabilities(theirs, pixels)).max() <= 1e-5


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

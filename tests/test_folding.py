"""A folded copy is the same function with fewer layers, and leaves alone what it cannot fold."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from edge_derm.modeling import architecture  # noqa: E402
from edge_derm.modeling.folding import Shift, folded  # noqa: E402
from edge_derm.modeling.gradients import Differentiable  # noqa: E402

pytestmark = pytest.mark.slow
layers = keras.layers


def unsettled(model):
    """Every weight away from where it starts, batch norms above all."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [w + np.abs(rng.normal(0, 0.3, w.shape)) if w.ndim == 1 else w for w in model.get_weights()]
    )
    return model


def count(model, kind):
    return sum(isinstance(layer, kind) for layer in model.layers)


def same(model, twin, size_px=32):
    x = np.random.default_rng(1).uniform(-1, 1, (4, size_px, size_px, 3)).astype(np.float32)
    np.testing.assert_allclose(model(x, training=False), twin(x, training=False), atol=1e-5)


@pytest.mark.parametrize(
    "choices", [{}, {"dilation": {"dw1": 2}}, {"dilation": {"conv1": 2}}, {"attention": True}]
)
def test_our_networks_fold_whole(choices):
    model = unsettled(architecture.build(size_px=32, classes=4, **choices))
    twin = folded(model)
    assert count(model, layers.BatchNormalization) == count(twin, Shift) == 27
    assert count(twin, layers.BatchNormalization) == 0
    same(model, twin)


def test_a_batch_norm_that_is_not_straight_behind_a_lonely_linear_convolution_stays():
    image = keras.Input((32, 32, 3))
    x = layers.BatchNormalization(name="first")(image)
    split = layers.Conv2D(6, 3, name="read_twice")(x)
    x = layers.BatchNormalization(name="one_of_two")(split)
    x = layers.Conv2D(6, 1, activation="relu", name="bent")(layers.Add()([x, split]))
    x = layers.BatchNormalization(name="behind_relu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="plain")(x)
    x = layers.BatchNormalization(scale=False, name="fits")(x)
    x = layers.Conv2D(5, 1, name="biased")(x)
    x = layers.BatchNormalization(center=False, name="fits_too")(x)
    x = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = unsettled(keras.Model(image, x))
    twin = folded(model)
    assert [layer.name for layer in twin.layers if isinstance(layer, Shift)] == ["fits", "fits_too"]
    same(model, twin)


def test_a_model_without_batch_norms_is_given_back():
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Flatten(), layers.Dense(2, "softmax")])
    assert folded(model) is model


def test_a_classifier_under_audit_keeps_the_weights_it_had():
    model = unsettled(architecture.build(size_px=32, classes=4))
    both, pixels = Differentiable(model), np.full((2, 32, 32, 3), 90, np.float32)
    expected = np.asarray(model(pixels / 128 - 1, training=False))
    model.set_weights([w * 0 for w in model.get_weights()])
    np.testing.assert_allclose(both.predict(pixels), expected, atol=1e-5)
    np.testing.assert_allclose(both.gradient(pixels, np.zeros(2, np.int64))[0], expected, atol=1e-5)

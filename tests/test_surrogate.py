"""The twin of a .tflite answers as the file does, and its gradient is the file's own slope."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from edge_derm.bundle import describe_model  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling.surrogate import Surrogate, real  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402
from firmware_bridge.graph import Quantization, Tensor  # noqa: E402

LABELS = ("akiec", "bcc", "mel", "nv")
pytestmark = pytest.mark.slow


def twin_of(model):
    return Surrogate(model, describe_model(model, labels=LABELS)), Classifier.of(model, LABELS)


def test_the_twin_of_a_float_file_gives_its_probabilities_dilation_included(tiny_float, tiny_images):
    twin, file = twin_of(tiny_float)
    found = twin.predict(tiny_images.astype(np.float32))
    np.testing.assert_allclose(found, file.predict(tiny_images), atol=2e-4)


@pytest.mark.parametrize("recipe", ["int8", "uint8", "int16"])
def test_the_twin_of_a_quantised_file_decides_like_it(tiny_models, tiny_images, recipe):
    twin, file = twin_of(tiny_models[recipe])
    found, deployed = twin.predict(tiny_images.astype(np.float32)), file.predict(tiny_images)
    assert (found.argmax(axis=1) == deployed.argmax(axis=1)).mean() > 0.9
    assert np.abs(found - deployed).max() < 0.1


def test_the_twins_gradient_is_the_files_own_slope(tiny_float, tiny_images):
    """Differences of the float file's answers along random ways, which is what an attacker would measure on a device."""
    twin, _ = twin_of(tiny_float)
    rng = np.random.default_rng(0)
    pixels, labels = tiny_images[:6].astype(np.float32) * 0.8 + 20, rng.integers(0, 4, 6)
    _, slope = twin.gradient(pixels, labels)
    way = np.sign(slope) * rng.uniform(0, 0.5, pixels.shape).astype(np.float32)
    loss = lambda x: -np.log(twin.predict(x)[range(6), labels].astype(np.float64))  # noqa: E731
    seen = (loss(pixels + way) - loss(pixels - way)) / 2
    np.testing.assert_allclose(seen, (slope * way).sum(axis=(1, 2, 3)), rtol=0.05, atol=1e-3)


def test_constants_are_read_back_channel_by_channel():
    stored = np.array([[2, -4], [0, 8]], np.int8)
    by_channel = Quantization(np.array([0.5, 0.25], np.float32), np.array([0, 0]), axis=1)
    np.testing.assert_array_equal(real(Tensor(0, "w", (2, 2), "int8", by_channel, stored)), [[1, -1], [0, 2]])
    whole = Quantization(np.array([0.5], np.float32), np.array([2]))
    np.testing.assert_array_equal(real(Tensor(0, "w", (2, 2), "int8", whole, stored)), [[0, -3], [-1, 3]])
    np.testing.assert_array_equal(real(Tensor(0, "axes", (2,), "int32", None, np.array([1, 2]))), [1, 2])


def test_an_operator_without_a_gradient_here_is_named(tiny_int8, monkeypatch):
    from edge_derm.modeling import surrogate

    known = {name: made for name, made in surrogate._OPERATORS.items() if name != "MEAN"}
    monkeypatch.setattr(surrogate, "_OPERATORS", known)
    with pytest.raises(ModelError, match="got MEAN") as caught:
        twin_of(tiny_int8)
    assert caught.value.code == "surrogate-operator"

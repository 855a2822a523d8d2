"""What a Keras classifier takes and gives, ours or anyone's, brought to the one convention.

The convention: one square RGB image in pixel/128 − 1 in, one probability per class out.
"""

from __future__ import annotations

import keras
import numpy as np

from edge_derm.errors import ModelError


def input_size(model: keras.Model) -> int:
    """Side of the square input in pixels.

    Raises:
        ModelError: ``keras-interface``: not one square RGB image in and one score per class out.
    """
    inputs, outputs = list(model.inputs or ()), list(model.outputs or ())
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    fits = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2] and shape[1] is not None
    if not fits or len(outputs) != 1 or len(outputs[0].shape) != 2 or (outputs[0].shape[1] or 0) < 2:
        raise ModelError(
            f"expected a classifier of one image [N, S, S, 3] with one output [N, classes ≥ 2], got inputs "
            f"{[tuple(t.shape) for t in inputs]} and outputs {[tuple(t.shape) for t in outputs]}",
            code="keras-interface",
        )
    return int(shape[1])


def with_probabilities(model: keras.Model) -> keras.Model:
    """The model itself where its outputs are probabilities; with a softmax behind it where they are logits.

    Seen by running it on two pictures: everything later (agreement, calibration, uncertainty) takes the outputs for
    probabilities, and logits passed off as such would be wrong without a word.

    Raises:
        ModelError: ``keras-interface``; ``keras-output``: independent scores (a sigmoid), of which no softmax makes sense.
    """
    size_px = input_size(model)
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, size_px, size_px, 3)).astype(np.float32)
    scores = np.asarray(model(pictures, training=False), np.float64)
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return model
    activation = _last_activation(model)
    if activation == "sigmoid":
        raise ModelError(
            "expected one probability per class, together 1 (a softmax) or logits, got independent scores (a sigmoid): "
            "export a model that decides for one class",
            code="keras-output",
        )
    return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]), name=model.name)


def need_tensorflow(what: str) -> None:
    """Refuse what only TensorFlow can do where Keras runs on something else.

    Raises:
        ModelError: ``backend-tensorflow``.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ModelError(
            f"{what}: expected Keras on TensorFlow, got {backend}: unset KERAS_BACKEND",
            code="backend-tensorflow",
        )


def dropout_of(model: keras.Model) -> tuple[float, int] | None:
    """Rate of the dropout in front of the classifier, and how many blocks dropout reaches back over; None without any."""
    dropped = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout) and layer.rate > 0]
    if not dropped:
        return None
    maps = [layer for layer in dropped if isinstance(layer, keras.layers.SpatialDropout2D)]
    return float(dropped[-1].rate), 1 + len(maps)


def _last_activation(model: keras.Model) -> str:
    layer = model.layers[-1]
    if isinstance(layer, keras.Model):
        return _last_activation(layer)
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def forget() -> None:
    """Drop what Keras keeps of models made before in this process, their names included, as if it were a fresh one."""
    keras.backend.clear_session()


def resized(model: keras.Model, size_px: int) -> keras.Model:
    """The same network with the same weights for square images of another side; convolutions do not mind.

    Raises:
        ModelError: ``size-range``.
    """
    if not 32 <= size_px <= 1024:
        raise ModelError(f"size: expected 32 to 1024 pixels, got {size_px}", code="size-range")
    image = keras.Input((size_px, size_px, model.input_shape[-1]), name="image")
    copy = keras.models.clone_model(model, input_tensors=image)
    copy.set_weights(model.get_weights())
    return copy

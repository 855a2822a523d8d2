"""A classifier as the two callables an audit takes: ``predict(pixels)`` and ``gradient(pixels, labels)``, compiled."""

from __future__ import annotations

from typing import Any, Callable

import keras
import numpy as np
import tensorflow as tf

from edge_derm.modeling.folding import folded
from edge_derm.modeling.interface import input_size, need_tensorflow, with_probabilities

BATCH = 64


class Twofold:
    """Callables on real-valued pixels, float32 [N, S, S, 3] in 0 … 255; batches are cut here and compiled once.

    Whoever inherits says what ``scores`` of pixels are, of weights that are constants, which TensorFlow joins where it can.
    """

    def __init__(self, size_px: int, *, logits: bool) -> None:
        need_tensorflow("gradients of a model")
        self.size_px, self._logits = size_px, logits
        shape = tf.TensorSpec((None, self.size_px, self.size_px, 3), tf.float32)
        self._predict = tf.function(self._forward, input_signature=[shape])
        self._gradient = tf.function(
            self._backward, input_signature=[shape, tf.TensorSpec((None,), tf.int64)]
        )

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [N, C]: probabilities."""
        return _batched(self._predict, pixels)[0]

    def gradient(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, float32 [N, C], and the derivative of each image's cross-entropy to its label, [N, S, S, 3]."""
        probabilities, slopes = _batched(self._gradient, pixels, np.asarray(labels, np.int64))
        return probabilities, slopes

    def scores(self, pixels: Any) -> Any:
        """Logits or probabilities, float32 [N, C]."""
        raise NotImplementedError

    def _forward(self, pixels: Any) -> tuple[Any]:
        return (self._probabilities(self.scores(pixels)),)

    def _backward(self, pixels: Any, labels: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            scores = self.scores(pixels)
            loss = tf.reduce_sum(
                keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=self._logits)
            )
        return self._probabilities(scores), tape.gradient(loss, pixels)

    def _probabilities(self, scores: Any) -> Any:
        return tf.nn.softmax(scores) if self._logits else scores


class Differentiable(Twofold):
    """A Keras classifier with the weights that it has now.

    Args:
        model: one image in pixel/128 − 1 in, probabilities or logits out.

    Raises:
        ModelError: ``keras-interface``, ``keras-output``.
    """

    def __init__(self, model: keras.Model) -> None:
        model, logits = _scores(with_probabilities(model))
        self._model = folded(model)
        held = (self._model.trainable_variables, self._model.non_trainable_variables)
        self._weights = [[variable.numpy() for variable in variables] for variables in held]
        super().__init__(input_size(model), logits=logits)

    def scores(self, pixels: Any) -> Any:
        """Logits or probabilities, float32 [N, C]."""
        weights = [[tf.constant(values) for values in held] for held in self._weights]
        return self._model.stateless_call(*weights, pixels / 128.0 - 1.0, training=False)[0]


def _scores(model: keras.Model) -> tuple[keras.Model, bool]:
    """The model up to its logits where it ends in a softmax layer of its own; a saturated softmax has no gradient."""
    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        return keras.Model(model.inputs, last.input), True
    return model, False


def _batched(call: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    pixels = np.asarray(arrays[0], np.float32)
    starts = range(0, max(len(pixels), 1), BATCH)
    made = [call(*(tf.constant(part[i : i + BATCH]) for part in (pixels, *arrays[1:]))) for i in starts]
    columns = [[part.numpy() for part in column] for column in zip(*made)]
    return [column[0] if len(column) == 1 else np.concatenate(column) for column in columns]

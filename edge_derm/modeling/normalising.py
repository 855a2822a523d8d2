"""Batch normalisation in one operator while training.

Keras 3 composes it out of eight element-wise passes over the activations, which is more than half of a MobileNet step on a CPU
(``docs/training.md``). The network that is saved keeps Keras' own layer; only its trained twin computes with this one.
"""

from __future__ import annotations

from typing import Any

import keras


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """The same weights and the same function as Keras' layer over the last axis of [N, H, W, C].

    The one difference: the moving variance takes the unbiased estimate, as TensorFlow's operator gives it.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf  # other backends train without this layer

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, seen in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + seen * (1 - self.momentum))
        return outputs


def trained_twin(model: keras.Model) -> keras.Model:
    """A copy with the same weights in the same order, for images of any size, that trains faster.

    Other compilers than TensorFlow's join the passes themselves: there it keeps Keras' layers.
    """
    composed = keras.backend.backend() == "tensorflow"

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = type(layer)
        plain = kind is keras.layers.BatchNormalization and layer.axis in (-1, 3)
        if composed and plain and layer.scale and layer.center:
            kind = FusedBatchNormalization
        return kind.from_config(layer.get_config())

    anything = keras.Input((None, None, model.input_shape[-1]), name="image")
    twin = keras.models.clone_model(model, input_tensors=anything, clone_function=copy)
    twin.set_weights(model.get_weights())
    return twin

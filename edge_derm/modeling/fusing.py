"""A copy of a model for export only, in which every dilated convolution is one operator.

Keras computes a dilated depthwise convolution as SPACE_TO_BATCH_ND → DEPTHWISE_CONV_2D → BATCH_TO_SPACE_ND, which the
converter keeps and which stops it from folding the batch norm. TensorFlow's raw operator takes the rate itself; it has no CPU
kernel for rates above 1, but a model that is only converted never runs it.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from edge_derm.errors import ModelError
from edge_derm.modeling.architecture import StridedDilatedConv2D


class OneDepthwise(keras.layers.DepthwiseConv2D):
    """``DepthwiseConv2D`` as the raw operator with its dilation."""

    def call(self, inputs: Any) -> Any:
        stride = self.strides[0]
        x = tf.raw_ops.DepthwiseConv2dNative(
            input=inputs,
            filter=self.kernel,
            strides=[1, stride, stride, 1],
            padding=self.padding.upper(),
            dilations=[1, *self.dilation_rate, 1],
        )
        if self.use_bias:
            x = tf.nn.bias_add(x, self.bias)
        return x if self.activation is None else self.activation(x)


class OneStridedDilated(StridedDilatedConv2D):
    """``StridedDilatedConv2D`` as the raw operator with stride and dilation."""

    def call(self, x: Any) -> Any:
        return tf.nn.conv2d(x, self.kernel, self.stride, "SAME", dilations=self.rate)


def dilated_depthwise(model: keras.Model) -> list[keras.layers.DepthwiseConv2D]:
    """The depthwise layers whose rate is above 1."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.DepthwiseConv2D) and max(layer.dilation_rate) > 1
    ]


def fuse(model: keras.Model) -> keras.Model:
    """The copy. Weights are the model's own; everything but the dilated layers is cloned as it is.

    Raises:
        ModelError: ``dilated-data-format`` (channels first), ``keras-structure`` (a model Keras cannot clone).
    """

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, StridedDilatedConv2D):
            return OneStridedDilated.from_config(config)
        if isinstance(layer, keras.layers.DepthwiseConv2D) and max(layer.dilation_rate) > 1:
            if layer.data_format != "channels_last":
                raise ModelError(
                    f"layer {layer.name}: expected channels_last, got {layer.data_format}",
                    code="dilated-data-format",
                )
            return OneDepthwise.from_config(config)
        return layer.__class__.from_config(config)

    try:
        copy = keras.models.clone_model(model, clone_function=clone)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"expected a Keras model made of cloneable layers, got: {error}", code="keras-structure"
        ) from error
    copy.set_weights(model.get_weights())
    return copy

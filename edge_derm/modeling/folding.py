"""Batch normalisation taken into the convolution before it: the same function of the weights as they are, in fewer passes.

Keras composes the layer out of element-wise passes over the activations, and its gradient out of as many again.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from edge_derm.modeling.architecture import StridedDilatedConv2D

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, StridedDilatedConv2D)


class Shift(keras.layers.Layer):
    """Adds one number a channel, of [N, H, W, C]."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(shape=(shape[-1],), initializer="zeros", name="by")

    def call(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
        return ops.add(x, self.by)


def folded(model: keras.Model) -> keras.Model:
    """A copy of a model for inference; the model itself where nothing can be folded or Keras cannot clone it."""
    before = {layer.name: _convolution_before(layer, model) for layer in model.layers}
    before = {name: convolution for name, convolution in before.items() if convolution is not None}
    if not before:
        return model

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return Shift(name=layer.name) if layer.name in before else type(layer).from_config(layer.get_config())

    try:
        twin = keras.models.clone_model(model, clone_function=copy)
    except (TypeError, ValueError, NotImplementedError):  # a layer without a configuration
        return model
    for layer in model.layers:
        if layer.name not in before and layer.get_weights():
            twin.get_layer(layer.name).set_weights(layer.get_weights())
    for name, convolution in before.items():
        weights, shift = _joined(convolution, model.get_layer(name))
        twin.get_layer(convolution.name).set_weights(weights)
        twin.get_layer(name).set_weights([shift])
    return twin


def _convolution_before(norm: Any, model: keras.Model) -> Any:
    """The linear convolution whose only reader is this batch norm, or None."""
    if not isinstance(norm, keras.layers.BatchNormalization) or norm.axis not in (-1, 3):
        return None
    if len(norm._inbound_nodes) != 1:
        return None
    layer = norm._inbound_nodes[0].input_tensors[0]._keras_history.operation
    alone = len(layer._inbound_nodes) == 1 and len(layer._outbound_nodes) == 1
    fits = type(layer) in _CONVOLUTIONS and getattr(layer, "data_format", "channels_last") == "channels_last"
    linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
    inside = layer in model.layers and not any(layer.output is output for output in model.outputs)
    return layer if alone and fits and linear and inside else None


def _joined(convolution: Any, norm: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """Weights of the convolution with the gain of the batch norm in them, and the shift that is left."""
    gain = 1 / np.sqrt(np.asarray(norm.moving_variance, np.float64) + norm.epsilon)
    gain = gain * np.asarray(norm.gamma) if norm.scale else gain
    shift = -np.asarray(norm.moving_mean) * gain + (np.asarray(norm.beta) if norm.center else 0)
    kernel, *bias = convolution.get_weights()
    along = gain.reshape(kernel.shape[2:] if isinstance(convolution, keras.layers.DepthwiseConv2D) else (-1,))
    return [kernel * along, *(values * gain for values in bias)], shift

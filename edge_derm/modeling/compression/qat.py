"""Training with int8 simulated: a chain whose weights and activations are rounded in the forward pass as the file will round them.

After Jacob et al., 2018, https://arxiv.org/abs/1712.05877: gradients pass straight through the rounding; batch norms are folded
before, so that what is trained is what is deployed (attention aside: it is trained in real numbers). A kernel has one scale an
output channel, its greatest weight being ±127; an activation has one range a tensor, which is trained too (the gradient of a
range is that of the values it cuts off).

The arithmetic is the converter's: what comes out of ``trained`` has its weights on their int8 grid, and the file made with its
ranges holds those very integers and scales.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from edge_derm.modeling.attention import NAME, SpatialAttention
from edge_derm.modeling.compression.chain import POOL, Layer, apply

Ranges = Mapping[str, tuple[float, float]]


def fake_quantise(kernel: Any) -> Any:
    """A kernel [..., out] (depthwise [3, 3, C, 1]) on its int8 grid: one scale an output channel, the greatest weight at ±127."""
    channels = kernel.shape[-2] if kernel.shape[-1] == 1 and len(kernel.shape) == 4 else kernel.shape[-1]
    flat = tf.reshape(kernel, [-1, channels])
    most = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(flat), axis=0), 1e-12))
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(flat, -most, most, narrow_range=True)
    return tf.reshape(rounded, kernel.shape)


class _Ranged(keras.layers.Layer):
    """Puts what it computes on the 256 steps of a range; ``low`` is trained only where values below zero are seen."""

    signed = False

    def add_range(self) -> None:
        self.low = self.add_weight(shape=(), initializer="zeros", trainable=self.signed, name="low")
        self.high = self.add_weight(shape=(), initializer="ones", name="high")

    def ranged(self, values: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_vars(values, self.low, self.high)


class Pooling(_Ranged):
    """Mean over the positions, [N, H, W, C] → [N, C]."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.add_range()

    def call(self, x: Any) -> Any:
        return self.ranged(tf.reduce_mean(x, axis=(1, 2)))


class Convolution(_Ranged):
    """One ``chain.Layer`` with its ReLU6 (the classifier: without), weights and output rounded."""

    def __init__(
        self, kind: str, kernel_shape: Sequence[int], outputs: int, stride: int, rate: int, **options: Any
    ):
        super().__init__(**options)
        self.kind, self.kernel_shape, self.outputs = kind, tuple(kernel_shape), outputs
        self.stride, self.rate = stride, rate
        self.signed = kind == "dense"

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(shape=self.kernel_shape, name="kernel")
        self.bias = self.add_weight(shape=(self.outputs,), initializer="zeros", name="bias")
        self.add_range()

    def call(self, x: Any) -> Any:
        layer = Layer(
            self.name, self.kind, fake_quantise(self.kernel), self.bias.value, self.stride, self.rate
        )
        y = apply(layer, x)
        return self.ranged(y if self.kind == "dense" else tf.nn.relu6(y))

    def get_config(self) -> dict[str, Any]:
        names = ("kind", "kernel_shape", "outputs", "stride", "rate")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def trainable(chain: Sequence[Layer], ranges: Ranges, size_px: int) -> keras.Model:
    """A Keras model that computes ``chain`` with int8 simulated: float [N, S, S, 3] → softmax [N, classes].

    Args:
        ranges: of every activation by name, pool and logits too (``reconstruct.ranges_of``); where training starts.
    """
    x = image = keras.Input((size_px, size_px, 3), name="image")
    for layer in chain:
        if layer.kind == "dense":
            x = x if layer.gate is None else SpatialAttention.of(layer.gate)(x)
            x = Pooling(name=POOL)(x)
        shape = layer.kernel.shape
        x = Convolution(layer.kind, shape, layer.bias.size, layer.stride, layer.rate, name=layer.name)(x)
    model = keras.Model(image, keras.layers.Softmax(name="probabilities")(x))
    for layer in chain:
        model.get_layer(layer.name).kernel.assign(layer.kernel)
        model.get_layer(layer.name).bias.assign(layer.bias)
    for name, (low, high) in ranges.items():
        model.get_layer(name).low.assign(low)
        model.get_layer(name).high.assign(high)
    return model


def trained(
    model: keras.Model, chain: Sequence[Layer]
) -> tuple[tuple[Layer, ...], dict[str, tuple[float, float]]]:
    """What training made of ``chain``: its kernels on their int8 grid, its biases, and the range of every activation."""
    layers = tuple(
        replace(
            layer,
            kernel=np.asarray(fake_quantise(model.get_layer(layer.name).kernel.value)),
            bias=model.get_layer(layer.name).bias.numpy(),
            gate=None if layer.gate is None else tuple(model.get_layer(NAME).get_weights()),
        )
        for layer in chain
    )
    ranged = (layer for layer in model.layers if isinstance(layer, _Ranged))
    return layers, {layer.name: (float(layer.low.numpy()), float(layer.high.numpy())) for layer in ranged}

"""A copy of a model for export only, in which every dilated convolution is one operator.

Keras computes a dilated depthwise convolution as SPACE_TO_BATCH_ND → DEPTHWISE_CONV_2D → BATCH_TO_SPACE_ND, which the
converter keeps and which stops it from folding the batch norm. TensorFlow's raw operator takes the rate itself; it has no CPU
kernel for rates above 1, but a model that is only converted never runs it.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Iterator, Mapping

import keras
import tensorflow as tf

from edge_derm.errors import ModelError
from edge_derm.modeling.architecture import StridedDilatedConv2D


class OneDepthwise(keras.layers.DepthwiseConv2D):
    """``DepthwiseConv2D`` as the raw operator with its dilation."""

    def call(self, inputs: Any) -> Any:
        return _finish(self, _depthwise(self, inputs, self.kernel))


class OneSeparable(keras.layers.SeparableConv2D):
    """``SeparableConv2D`` whose depthwise half is the raw operator with its dilation."""

    def call(self, inputs: Any) -> Any:
        x = _depthwise(self, inputs, self.depthwise_kernel)
        return _finish(self, tf.nn.conv2d(x, self.pointwise_kernel, 1, "VALID"))


class OneStridedDilated(StridedDilatedConv2D):
    """``StridedDilatedConv2D`` as the raw operator with stride and dilation."""

    def call(self, x: Any) -> Any:
        return tf.nn.conv2d(x, self.kernel, self.stride, "SAME", dilations=self.rate)


class _Ranged:
    """Put before a layer's class: its output on the 256 steps of a known range, which the converter then takes over."""

    range: tuple[float, float]

    def call(self, inputs: Any) -> Any:
        low, high = self.range
        values = super().call(inputs)  # type: ignore[misc]
        return tf.quantization.fake_quant_with_min_max_args(values, low, high)


class RangedReLU(_Ranged, keras.layers.ReLU):
    """``ReLU`` with a known range."""


class RangedPooling(_Ranged, keras.layers.GlobalAveragePooling2D):
    """``GlobalAveragePooling2D`` with a known range."""


class RangedDense(_Ranged, keras.layers.Dense):
    """``Dense`` with a known range."""


RANGED: dict[type, Any] = {
    keras.layers.ReLU: RangedReLU,
    keras.layers.GlobalAveragePooling2D: RangedPooling,
    keras.layers.Dense: RangedDense,
}
FUSED: dict[type, Any] = {
    keras.layers.DepthwiseConv2D: OneDepthwise,
    keras.layers.SeparableConv2D: OneSeparable,
}
_WHOLE = (keras.layers.Conv2D, StridedDilatedConv2D)  # these end as CONV_2D


def _depthwise(layer: Any, inputs: Any, kernel: Any) -> Any:
    return tf.raw_ops.DepthwiseConv2dNative(
        input=inputs,
        filter=kernel,
        strides=[1, *layer.strides, 1],
        padding=layer.padding.upper(),
        dilations=[1, *layer.dilation_rate, 1],
    )


def _finish(layer: Any, x: Any) -> Any:
    if layer.use_bias:
        x = tf.nn.bias_add(x, layer.bias)
    return x if layer.activation is None else layer.activation(x)


def dilation_rates(model: keras.Model) -> Counter[tuple[str, int]]:
    """How often each (operator, rate) above 1 must appear in the product: the model's own layers and those of models in it."""
    return Counter(
        ("CONV_2D" if isinstance(layer, _WHOLE) else "DEPTHWISE_CONV_2D", _rate(layer))
        for layer in _layers(model)
        if _rate(layer) > 1
    )


def _rate(layer: Any) -> int:
    if isinstance(layer, StridedDilatedConv2D):
        return int(layer.rate)
    dilated = isinstance(layer, (keras.layers.Conv2D, *FUSED))
    return max(layer.dilation_rate) if dilated else 1


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def fuse(model: keras.Model, ranges: Mapping[str, tuple[float, float]] | None = None) -> keras.Model:
    """The copy. Weights are the model's own; everything but the dilated layers is cloned as it is.

    Args:
        ranges: by layer name, of outputs whose int8 range is already known (ReLU, global average pooling, dense).

    Raises:
        ModelError: ``dilated-data-format`` (channels first), ``keras-structure`` (a model Keras cannot clone).
    """
    try:
        copy = keras.models.clone_model(
            model, clone_function=partial(_clone, ranges=ranges or {}), recursive=True
        )
        copy.set_weights(model.get_weights())
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"expected a Keras model made of cloneable layers, got: {reason}", code="keras-structure"
        ) from error
    return copy


def _clone(layer: keras.layers.Layer, ranges: Mapping[str, tuple[float, float]]) -> keras.layers.Layer:
    config = layer.get_config()
    if layer.name in ranges:
        ranged = RANGED[type(layer)].from_config(config)
        ranged.range = ranges[layer.name]
        return ranged
    if isinstance(layer, StridedDilatedConv2D):
        return OneStridedDilated.from_config(config)
    if type(layer) in FUSED and _rate(layer) > 1:
        if layer.data_format != "channels_last":
            raise ModelError(
                f"layer {layer.name}: expected channels_last, got {layer.data_format}",
                code="dilated-data-format",
            )
        return FUSED[type(layer)].from_config(config)
    return layer.__class__.from_config(config)

"""A network as a chain of convolutions with their batch norms folded in, and back into Keras.

A chain is what post-training methods compute on: plain arrays, one ``Layer`` per operator of the int8 file. Writing a chain back
gives a Keras model of the same structure whose batch norms are the identity, so every exporter and every check takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import keras
import numpy as np
from keras import ops

from edge_derm.errors import ModelError
from edge_derm.modeling import attention
from edge_derm.modeling.architecture import StridedDilatedConv2D, strided_dilated
from edge_derm.modeling.attention import SpatialAttention

CLIP = 6.0  # of ReLU6, after every convolution of a chain
POOL = "pool"

# What happens to an activation on its way to the next layer: (name of the layer it leaves, values) -> values.
Observer = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Layer:
    """One convolution, depthwise convolution or the classifier behind the pooling, batch norm folded.

    Kernels are Keras': conv [k, k, in, out], dw [k, k, channels, 1], dense [in, out]. ``bias`` is [out].
    """

    name: str
    kind: str  # conv, dw, dense
    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1
    rate: int = 1
    gate: tuple[np.ndarray, ...] | None = None  # dense only: weights of the attention in front of the pooling

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """The axes of ``kernel`` that one scale covers: all but that of the output channels."""
        return (0, 1, 3) if self.kind == "dw" else tuple(range(self.kernel.ndim - 1))


def fold(model: keras.Model) -> tuple[Layer, ...]:
    """The chain of a network of the MobileNet family.

    Raises:
        ModelError: ``chain-structure``: anything but convolutions without bias, each with batch norm and ReLU6, one after
            another, then attention or not, global average pooling, one dense layer and a softmax.
    """
    layers = [layer for layer in model.layers if not isinstance(layer, _PASSING)]
    found: list[Layer] = []
    place = 0
    while place < len(layers) and isinstance(layers[place], _CONVOLUTIONS):
        found.append(_folded(*_triple(layers[place : place + 3])))
        place += 3
    gate, rest = None, layers[place:]
    if rest and isinstance(rest[0], SpatialAttention):
        gate, rest = tuple(rest[0].get_weights()), rest[1:]
    ends = (keras.layers.GlobalAveragePooling2D, keras.layers.Dense, keras.layers.Softmax)
    fits = len(rest) == 3 and all(isinstance(layer, kind) for layer, kind in zip(rest, ends))
    if (
        not found
        or not fits
        or not _is_line(model)
        or keras.activations.serialize(rest[1].activation) != "linear"
    ):
        raise _foreign(", ".join(type(layer).__name__ for layer in rest[:4]) or "no convolution")
    kernel, bias = rest[1].get_weights()
    return (*found, Layer(rest[1].name, "dense", kernel, bias, gate=gate))


_PASSING = (keras.layers.InputLayer, keras.layers.Dropout)
_CONVOLUTIONS = (keras.layers.DepthwiseConv2D, keras.layers.Conv2D, StridedDilatedConv2D)


def _triple(layers: Sequence[Any]) -> tuple[Any, Any]:
    if (
        len(layers) < 3
        or not isinstance(layers[1], keras.layers.BatchNormalization)
        or not isinstance(layers[2], keras.layers.ReLU)
        or layers[2].max_value != CLIP
        or getattr(layers[0], "use_bias", False)
        or getattr(layers[0], "padding", "same") != "same"
    ):
        raise _foreign(" → ".join(layer.name for layer in layers))
    return layers[0], layers[1]


def _is_line(model: keras.Model) -> bool:
    return all(len(layer._inbound_nodes) <= 1 for layer in model.layers) and len(model.inputs) == 1


def _foreign(what: str) -> ModelError:
    return ModelError(
        f"expected a chain of convolution, batch norm and ReLU6, then pooling, dense and softmax, got {what}: "
        "export it with --rounding nearest, which takes any structure",
        code="chain-structure",
    )


def _folded(conv: Any, norm: Any) -> Layer:
    gamma, beta, mean, variance = norm.get_weights()
    gain = (gamma / np.sqrt(variance + norm.epsilon)).astype(np.float32)
    kernel = conv.get_weights()[0]
    depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)
    ours = isinstance(conv, StridedDilatedConv2D)
    return Layer(
        conv.name,
        "dw" if depthwise else "conv",
        kernel * (gain[:, None] if depthwise else gain),
        (beta - mean * gain).astype(np.float32),
        conv.stride if ours else conv.strides[0],
        conv.rate if ours else conv.dilation_rate[0],
    )


def unfold(model: keras.Model, chain: Sequence[Layer]) -> keras.Model:
    """A copy of ``model`` that computes ``chain``: kernels as they stand, batch norms that only add the bias."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in chain:
        target = copy.get_layer(layer.name)
        if layer.kind == "dense":
            target.set_weights([layer.kernel, layer.bias])
            if layer.gate is not None:
                copy.get_layer(attention.NAME).set_weights(layer.gate)
            continue
        target.set_weights([layer.kernel])
        norm = copy.layers[copy.layers.index(target) + 1]
        one = np.ones_like(layer.bias)
        norm.set_weights([one, layer.bias, 0 * one, one - np.float32(norm.epsilon)])
    return copy


def apply(layer: Layer, x: Any) -> Any:
    """The layer's affine part on [N, H, W, C] (dense: [N, C]), before its ReLU6."""
    if layer.kind == "dense":
        return x @ layer.kernel + layer.bias
    if layer.kind == "conv":
        if layer.stride > 1 and layer.rate > 1:
            return strided_dilated(x, layer.kernel, layer.stride, layer.rate) + layer.bias
        return ops.conv(x, layer.kernel, layer.stride, "same", dilation_rate=layer.rate) + layer.bias
    return ops.depthwise_conv(x, layer.kernel, layer.stride, "same", dilation_rate=layer.rate) + layer.bias


def pool(layer: Layer, x: Any) -> Any:
    """What the classifier sees, [N, C], of the last feature map [N, H, W, C]: the mean over all places, weighed by attention."""
    if layer.gate is not None:
        x = x * (1 + attention.mask(x, *layer.gate))
    return ops.mean(x, axis=(1, 2))


def forward(chain: Sequence[Layer], x: Any, observe: Observer = lambda name, values: values) -> Any:
    """Logits [N, C] of float32 [N, S, S, 3]; ``observe`` sees, and may replace, every activation, pool and logits too."""
    for layer in chain:
        if layer.kind == "dense":
            x = observe(POOL, pool(layer, x))
        y = apply(layer, x)
        x = observe(layer.name, y if layer.kind == "dense" else ops.relu6(y))
    return x

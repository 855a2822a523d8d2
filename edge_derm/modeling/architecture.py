"""The stage table as a Keras model.

Layer names are those of Keras' own MobileNet (``conv1``, ``conv_dw_1``, ``conv_pw_1``, …), so that its weight files fit
(``pretrained``). Every convolution pads to ``same``: a dilated one by its rate, a strided one at the bottom and right on an even
side, which is what Keras' MobileNet does with explicit padding layers.
"""

from __future__ import annotations

from typing import Any, Mapping

import keras
from keras import layers as kl
from keras import ops

from edge_derm.errors import ModelError
from edge_derm.modeling import attention as attending
from edge_derm.modeling import stages

LOGITS = "logits"
BN_MOMENTUM = 0.9  # Keras' 0.99 lags behind on data sets of a thousand images


def build(
    dilation: Mapping[str, int] | None = None,
    *,
    alpha: float = 0.25,
    size_px: int = 128,
    classes: int = 7,
    dropout: float = 0.2,
    dropout_depth: int = 1,
    attention: bool = False,
) -> keras.Model:
    """A (Dilated-)MobileNet v1 classifier.

    Args:
        dilation: rates by layer, e.g. ``{"dw1": 2}`` (``stages.dilation_map``).
        alpha: width multiplier, 0.25 to 1.0.
        size_px: side of the square input, from 32.
        dropout: before the classifier; 0 leaves the layers out.
        dropout_depth: blocks it reaches back over: 1 is the classifier alone; K also drops whole feature maps behind each of
            the K − 1 blocks before the last one.
        attention: weigh the places of the last feature map (``modeling.attention``).

    Returns:
        float32 [N, S, S, 3] in pixel/128 − 1 → softmax [N, classes].

    Raises:
        ModelError: ``alpha-range``, ``size-range``, ``classes-range``, ``dilation-…``.
    """
    rates = dict(dilation or {})
    stages.check_dilation(rates)
    _check(alpha, size_px, classes)
    if not 1 <= dropout_depth <= 13:
        raise ModelError(
            f"dropout depth: expected head or last-1 to last-13, got {dropout_depth} blocks",
            code="dropout-depth",
        )
    image = keras.Input((size_px, size_px, 3), name="image")
    x = image
    layers = stages.layers(alpha, size_px, rates)
    points = [layer.name for layer in layers if layer.kind == "pw"]
    dropped = points[len(points) - dropout_depth : -1] if dropout else []
    for layer in layers:
        x = _convolve(x, layer)
        if layer.name in dropped:
            x = kl.SpatialDropout2D(dropout, name=f"{keras_name(layer.name)}_dropout")(x)
    if attention:
        x = attending.SpatialAttention(stages.attention_units(x.shape[-1]), name=attending.NAME)(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    if dropout:
        x = kl.Dropout(dropout, name="dropout")(x)
    x = kl.Dense(classes, name=LOGITS)(x)
    return keras.Model(image, kl.Softmax(name="probabilities")(x), name="dilated_mobilenet")


def _check(alpha: float, size_px: int, classes: int) -> None:
    if not 0.25 <= alpha <= 1.0:
        raise ModelError(f"alpha: expected 0.25 to 1.0, got {alpha}", code="alpha-range")
    if not 32 <= size_px <= 1024:
        raise ModelError(f"size: expected 32 to 1024 pixels, got {size_px}", code="size-range")
    if classes < 2:
        raise ModelError(f"classes: expected at least 2, got {classes}", code="classes-range")


def _convolve(x: Any, layer: stages.Layer) -> Any:
    name = keras_name(layer.name)
    if layer.kind == "dw":
        conv = kl.DepthwiseConv2D(
            3, layer.stride, "same", use_bias=False, dilation_rate=layer.rate, name=name
        )
    elif layer.stride > 1 and layer.rate > 1:
        conv = StridedDilatedConv2D(layer.outputs, layer.stride, layer.rate, name=name)
    else:
        size = 1 if layer.kind == "pw" else 3
        conv = kl.Conv2D(layer.outputs, size, layer.stride, "same", use_bias=False, name=name)
    x = kl.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(conv(x))
    return kl.ReLU(6.0, name=f"{name}_relu")(x)


def keras_name(name: str) -> str:
    """``dw3`` → ``conv_dw_3``; ``conv1`` stays."""
    return name if name == "conv1" else f"conv_{name[:2]}_{name[2:]}"


@keras.saving.register_keras_serializable("edge_derm")
class StridedDilatedConv2D(kl.Layer):
    """A 3 × 3 convolution with stride *and* dilation, which Keras' own layer refuses.

    TensorFlow's operator takes both but has no gradient on a CPU, so this computes every position and keeps each
    ``stride``-th; ``export`` writes the one operator.
    """

    def __init__(self, filters: int, stride: int, rate: int, **options: Any) -> None:
        super().__init__(**options)
        self.filters, self.stride, self.rate = filters, stride, rate

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(
            shape=(3, 3, shape[-1], self.filters), initializer="glorot_uniform", name="kernel"
        )

    def call(self, x: Any) -> Any:
        return strided_dilated(x, self.kernel, self.stride, self.rate)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        sides = (None if side is None else -(-side // self.stride) for side in shape[1:3])
        return (shape[0], *sides, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "stride": self.stride, "rate": self.rate}


def strided_dilated(x: Any, kernel: Any, stride: int, rate: int) -> Any:
    """[N, H, W, C] → [N, ⌈H / stride⌉, ⌈W / stride⌉, out] by a 3 × 3 kernel with stride and rate, padded to ``same``."""
    # never below zero, because no stride of the network is wider than a dilated kernel
    total = [(-(-side // stride) - 1) * stride + 2 * rate + 1 - side for side in ops.shape(x)[1:3]]
    x = ops.pad(x, [[0, 0], *([pad // 2, pad - pad // 2] for pad in total), [0, 0]])
    return ops.conv(x, kernel, padding="valid", dilation_rate=rate)[:, ::stride, ::stride]


def logits_of(model: keras.Model) -> keras.Model:
    """The same model, sharing its weights, up to the logits."""
    return keras.Model(model.input, model.get_layer(LOGITS).output)

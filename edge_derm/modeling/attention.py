"""Attention: a module in front of the pooling that weighs the places of the last feature map, and shows how.

After the idea of Yeh, Lin, Chang, Kang, IEEE Access 2020, 8:163447 (a plug-in before the fully connected layers that
emphasises salient regions at negligible cost). The form is this project's reading, chosen so that the int8 file needs few
and plain operators: feature map F → 1 × 1 convolution to a sixteenth of its channels, ReLU6 → 3 × 3 convolution to one
channel → sigmoid: the mask M, one value in (0, 1) a place; F · (1 + M) goes on. A place is never switched off, at most
halved against another.
"""

from __future__ import annotations

from typing import Any, Sequence

import keras
import numpy as np
from keras import ops

from edge_derm.errors import ModelError

NAME = "attention"
CENTRING = 0.1  # in training, times the square of the mask's mean logit: without it masks went to 0 everywhere (measured)
SEED = 0  # of the first kernel; drawn apart, so that a network with attention otherwise starts as one without


@keras.saving.register_keras_serializable("edge_derm")
class SpatialAttention(keras.layers.Layer):
    """float32 [N, H, W, C] → [N, H, W, C]; ``units``: channels between the two convolutions.

    The second kernel starts at zero: the mask is one half everywhere, and the network what it is without attention, times 1.5.
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units

    def build(self, shape: tuple[int, ...]) -> None:
        start = keras.initializers.GlorotUniform(seed=SEED)
        self.squeeze = self.add_weight(
            shape=(1, 1, shape[-1], self.units), initializer=start, name="squeeze_kernel"
        )
        self.squeeze_bias = self.add_weight(shape=(self.units,), initializer="zeros", name="squeeze_bias")
        self.look = self.add_weight(shape=(3, 3, self.units, 1), initializer="zeros", name="mask_kernel")
        self.look_bias = self.add_weight(shape=(1,), initializer="zeros", name="mask_bias")

    @classmethod
    def of(cls, weights: Sequence[np.ndarray]) -> SpatialAttention:
        """A layer of these four weights, for a feature map of their channels."""
        layer = cls(weights[0].shape[-1], name=NAME)
        layer.build((1, 1, 1, weights[0].shape[-2]))
        layer.built = True
        layer.set_weights(weights)
        return layer

    def call(self, x: Any, training: bool | None = None) -> Any:
        seen = logits(x, *self.weights)
        if training:
            self.add_loss(CENTRING * ops.square(ops.mean(seen)))
        return x * (1.0 + ops.sigmoid(seen))

    def mask(self, x: Any) -> Any:
        """float32 [N, H, W, 1] in (0, 1) of a feature map [N, H, W, C]."""
        return mask(x, *self.weights)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def mask(x: Any, squeeze: Any, squeeze_bias: Any, look: Any, look_bias: Any) -> Any:
    """The mask [N, H, W, 1] of a feature map [N, H, W, C], from the four weights of the layer in their order."""
    return ops.sigmoid(logits(x, squeeze, squeeze_bias, look, look_bias))


def logits(x: Any, squeeze: Any, squeeze_bias: Any, look: Any, look_bias: Any) -> Any:
    """What the mask is the sigmoid of, [N, H, W, 1]."""
    squeezed = ops.relu6(ops.conv(x, squeeze, 1, "same") + squeeze_bias)
    return ops.conv(squeezed, look, 1, "same") + look_bias


def masks(model: keras.Model, pixels: np.ndarray, *, batch: int = 64) -> np.ndarray:
    """float32 [N, H, W]: the float model's masks of preprocessed images, uint8 [N, S, S, 3].

    Raises:
        ModelError: ``attention-missing``.
    """
    layer = next((layer for layer in model.layers if isinstance(layer, SpatialAttention)), None)
    if layer is None:
        raise ModelError(
            "expected a model with attention, got one without: train with --attention",
            code="attention-missing",
        )
    seen = keras.Model(model.input, layer.input)
    parts = [pixels[i : i + batch].astype(np.float32) / 128 - 1 for i in range(0, len(pixels), batch)]
    found = [np.asarray(layer.mask(seen.predict_on_batch(part))) for part in parts]
    return np.concatenate(found)[..., 0]

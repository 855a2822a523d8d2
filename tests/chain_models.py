"""A small network of the MobileNet family whose statistics are those of its data, with logits that decide for several classes."""

from __future__ import annotations

from typing import Any, Sequence

import keras
import numpy as np

from edge_derm.modeling.attention import NAME, SpatialAttention
from edge_derm.modeling.compression import chain, quantise

SMALL = ((3, 8, 2, 1), ("dw", 8, 1, 2), (1, 16, 1, 1), ("dw", 16, 2, 1), (1, 24, 1, 1))
WIDE = (
    (3, 16, 2, 1),
    ("dw", 16, 1, 2),
    (1, 72, 1, 1),
    ("dw", 72, 2, 1),
    (1, 48, 1, 1),
)  # two kernels above 1,024 weights


def build(
    pixels: np.ndarray, *, attention: bool = False, plan: Sequence[tuple[Any, int, int, int]] = SMALL
) -> keras.Model:
    """Five convolutions, one dilated, on ``pixels`` uint8 [N, 48, 48, 3]; 4 classes. With attention, its masks differ by place."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    x = image = keras.Input((48, 48, 3))
    kl = keras.layers
    for kind, width, stride, rate in plan:
        if kind == "dw":
            conv = kl.DepthwiseConv2D(3, stride, "same", use_bias=False, dilation_rate=rate)
        else:
            conv = kl.Conv2D(width, kind, stride, "same", use_bias=False)
        norm = kl.BatchNormalization(
            momentum=0.0, gamma_initializer=uniform(rng), beta_initializer=uniform(rng)
        )
        x = kl.ReLU(6.0)(norm(conv(x)))
    if attention:
        x = SpatialAttention(4, name=NAME)(x)
    features = kl.GlobalAveragePooling2D()(x)
    made = keras.Model(image, kl.Softmax()(kl.Dense(4, name="logits")(features)))
    made(pixels.astype(np.float32) / 128 - 1, training=True)
    if attention:
        gate = made.get_layer(NAME)
        gate.set_weights([rng.normal(0, 0.3, w.shape) for w in gate.get_weights()])
    head = made.get_layer("logits")
    head.kernel.assign(rng.normal(0, 1.5, head.kernel.shape))
    pooled = quantise.pooled(chain.fold(made), pixels)
    head.bias.assign(-(pooled @ head.kernel.numpy()).mean(axis=0))
    return made


def uniform(rng: np.random.Generator) -> keras.initializers.Initializer:
    """Draws that differ from layer to layer."""
    return keras.initializers.RandomUniform(0.5, 1.5, seed=int(rng.integers(1000)))


def logits(layers: Sequence[chain.Layer], pixels: np.ndarray, *observe: chain.Observer) -> np.ndarray:
    """float32 [N, C] of uint8 [N, S, S, 3], as floating point has them but for what an observer replaces."""
    return np.asarray(chain.forward(layers, pixels.astype(np.float32) / 128 - 1, *observe))


def softmax(logits: np.ndarray) -> np.ndarray:
    """[N, C]."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)

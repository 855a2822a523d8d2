"""Random views of a batch: one projective resampling (flip, turn, zoom, shift) and one change of colour and contrast.

Lesions have no up or down, so every rotation and mirror image is as true as the original. Seeds go in as numbers: batch ``b`` of
epoch ``e`` is always the same, which is what makes a resumed run equal an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """How far a view may go."""

    zoom: tuple[float, float] = (0.65, 1.0)  # side of the crop as a share of the stored picture
    turn: bool = True  # any angle; False: flips only
    contrast: float = 0.2
    brightness: float = 0.15
    tint: float = 0.08  # per channel


def augment(images: Any, size_px: int, seed: Any, how: Augmentation) -> Any:
    """Random views.

    Args:
        images: uint8 [N, P, P, 3].
        seed: int32 [2], stateless.

    Returns:
        float32 [N, size_px, size_px, 3], pixel/128 − 1.
    """
    n, side = tf.shape(images)[0], images.shape[1]
    draws = tf.random.stateless_uniform((n, 11), seed)
    x = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=_transforms(draws, side, size_px, how),
        output_shape=[size_px, size_px],
        interpolation="BILINEAR",
        fill_mode="REFLECT",
        fill_value=0.0,
    )
    x = tf.ensure_shape(x, (None, size_px, size_px, 3))
    return tf.clip_by_value(_recolour(x, draws, how), 0.0, 255.0) / 128.0 - 1.0


def _transforms(draws: Any, side: int, size_px: int, how: Augmentation) -> Any:
    """[N, 8]: output coordinates to input coordinates."""
    zoom = (how.zoom[0] + draws[:, 0] * (how.zoom[1] - how.zoom[0])) * (side / size_px)
    angle = draws[:, 1] * 6.2831853 if how.turn else tf.zeros_like(zoom)
    mirror = tf.where(draws[:, 2] < 0.5, -1.0, 1.0)
    room = (side - zoom * size_px) / 2
    shift_x, shift_y = (2 * draws[:, 3] - 1) * room, (2 * draws[:, 4] - 1) * room
    cosine, sine, centre = tf.cos(angle) * zoom, tf.sin(angle) * zoom, (size_px - 1) / 2
    a, b, d, e = cosine * mirror, -sine, sine * mirror, cosine
    c = (side - 1) / 2 + shift_x - (a + b) * centre
    f = (side - 1) / 2 + shift_y - (d + e) * centre
    zero = tf.zeros_like(a)
    return tf.stack([a, b, c, d, e, f, zero, zero], axis=1)


def _recolour(x: Any, draws: Any, how: Augmentation) -> Any:
    signed = 2 * draws[:, 5:10] - 1
    contrast, brightness = 1 + how.contrast * signed[:, 0], 1 + how.brightness * signed[:, 1]
    tint = 1 + how.tint * signed[:, 2:5]
    mean = tf.reduce_mean(x, axis=(1, 2), keepdims=True)
    return (x - mean) * contrast[:, None, None, None] + mean * (brightness[:, None] * tint)[:, None, None, :]

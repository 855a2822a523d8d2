"""Random views of a batch: one resampling (flip, turn, zoom, shift) and one change of colour and contrast.

Lesions have no up or down, so every rotation and mirror image is as true as the original. Seeds go in as numbers: batch ``b`` of
epoch ``e`` is always the same, which is what makes a resumed run equal an uninterrupted one. Pictures stay bytes until the last
step, a table of 256 numbers a channel: half to a quarter of the time of the same arithmetic on floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """How far a view may go."""

    zoom: tuple[float, float] = (0.65, 1.0)  # side of the crop as a share of the stored picture
    turn: bool = True  # any angle; False: flips only
    contrast: float = 0.2
    brightness: float = 0.15
    tint: float = 0.08  # per channel


def augment(images: np.ndarray, size_px: int, seed: Sequence[int], how: Augmentation) -> np.ndarray:
    """Random views.

    Args:
        images: uint8 [N, P, P, 3].
        seed: of the draws; equal seeds give equal views.

    Returns:
        float32 [N, size_px, size_px, 3], pixel/128 − 1.
    """
    draws = np.random.default_rng(seed).random((len(images), 10))
    views = np.empty((len(images), size_px, size_px, 3), np.float32)
    for image, row, matrix, view in zip(
        images, draws, _transforms(draws, images.shape[1], size_px, how), views
    ):
        seen = cv2.warpAffine(
            image,
            matrix,
            (size_px, size_px),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        cv2.LUT(seen, _colours(seen, row, how), view)
    return views


def _transforms(draws: np.ndarray, side: int, size_px: int, how: Augmentation) -> np.ndarray:
    """[N, 2, 3]: output coordinates to input coordinates."""
    zoom = (how.zoom[0] + draws[:, 0] * (how.zoom[1] - how.zoom[0])) * (side / size_px)
    angle = draws[:, 1] * 2 * np.pi if how.turn else np.zeros_like(zoom)
    mirror = np.where(draws[:, 2] < 0.5, -1.0, 1.0)
    room = (side - zoom * size_px) / 2
    shift = (2 * draws[:, 3:5] - 1) * room[:, None]
    cosine, sine, centre = np.cos(angle) * zoom, np.sin(angle) * zoom, (size_px - 1) / 2
    turned = np.stack([cosine * mirror, -sine, sine * mirror, cosine], axis=1).reshape(-1, 2, 2)
    offset = (side - 1) / 2 + shift - turned.sum(axis=2) * centre
    return np.concatenate([turned, offset[:, :, None]], axis=2)


def _colours(seen: np.ndarray, row: np.ndarray, how: Augmentation) -> np.ndarray:
    """float32 [1, 256, 3]: what each byte of each channel becomes; contrast pivots on the picture's own mean."""
    signed = 2 * row[5:10] - 1
    contrast, brightness = 1 + how.contrast * signed[0], 1 + how.brightness * signed[1]
    tint = 1 + how.tint * signed[2:5]
    mean = np.array(cv2.mean(seen)[:3])
    values = (np.arange(256)[:, None] - mean) * contrast + mean * (brightness * tint)
    return (np.clip(values, 0, 255) / 128 - 1).astype(np.float32)[None]

"""The attention mask of a bundle: where the network looked, as numbers and as a picture.

It is a part of the deployed file's own arithmetic (``train --attention``), not an explanation fitted afterwards: each place of the
last feature map weighs 1 + its value, so the largest difference there can be is a factor of two. It says where, not why.
"""

from __future__ import annotations

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.bundle.cut import expose_mask
from edge_derm.runtime.features import Inside

FLAT = 0.01  # spread within an image below which a mask says nothing
_COLD, _HOT = np.array([20, 40, 120]), np.array([255, 210, 40])  # RGB of 0 and of 1


class Masks(Inside):
    """A bundle's model with its mask as a second output; not for two threads at once."""

    def __init__(self, bundle: Bundle, *, kernels: str = "default", threads: int = 1) -> None:
        """Load it.

        Raises:
            ModelError: ``attention-missing``. BackendError.
        """
        super().__init__(bundle, expose_mask(bundle.model), kernels=kernels, threads=threads)

    def of(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, H, W] in [0, 1] of preprocessed images, uint8 [N, S, S, 3]."""
        return super().of(images)[..., 0]


def collapse(masks: np.ndarray) -> dict[str, float | bool]:
    """Whether masks [N, H, W] of many images still say something.

    ``mean``; ``within``: mean over images of the spread over places; ``between``: mean over places of the spread over images;
    ``saturated``: share of values within 0.02 of 0 or 1. Collapsed: flat (``within`` below 0.01), or the same in every image
    (``between`` below 0.01), or nearly all saturated (over 0.95).
    """
    within = float(masks.std(axis=(1, 2)).mean())
    between = float(masks.std(axis=0).mean())
    saturated = float(((masks < 0.02) | (masks > 0.98)).mean())
    return {
        "mean": float(masks.mean()),
        "within": within,
        "between": between,
        "saturated": saturated,
        "collapsed": within < FLAT or between < FLAT or saturated > 0.95,
    }


def overlay(pixels: np.ndarray, mask: np.ndarray, *, strength: float = 0.45) -> np.ndarray:
    """A picture, uint8 RGB [H, W, 3], with a mask [h, w] over it: blue is 0, yellow is 1; a flat mask looks flat."""
    import cv2  # not needed, and not loaded, by those who only want the numbers

    height, width = pixels.shape[:2]
    fine = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    colour = _COLD + (_HOT - _COLD) * np.clip(fine, 0, 1)
    return np.rint((1 - strength) * pixels + strength * colour).astype(np.uint8)

"""Image → the bytes of an int8 or uint8 input tensor, in integers: section 5 of ``SPEC.md``.

The geometry is that of training (``edge_derm.data.preprocess``, which this package must not import; a test holds the two
to the same bytes), written without OpenCV so that a device can do the same in C.
"""

from __future__ import annotations

import numpy as np

from firmware_bridge.graph import LinkError
from firmware_bridge.link import TensorInfo

GREY = (9798, 19235, 3735)  # of 2^15: red, green, blue of Rec. 601


def encode_image(image: np.ndarray, tensor: TensorInfo, *, mean: float = 128.0, std: float = 128.0) -> bytes:
    """Return the bytes of ``tensor`` for one image.

    Args:
        image: uint8 [H, W, 3], RGB.
        tensor: of shape [1, S, S, 3] or [1, S, S, 1]; its scale and zero point say what is stored.
        mean, std: the normalisation the model was trained with: it computes on (pixel − mean) / std.

    Raises:
        LinkError: ``image-shape`` (the image or the tensor), ``normalisation``.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise _shape("uint8 [H, W, 3]", f"{image.dtype} {list(image.shape)}")
    shape = tensor.shape
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] not in (1, 3):
        raise _shape("a device whose input is [1, S, S, 3] or [1, S, S, 1]", f"{list(shape)}")
    pixels = fit(image, shape[1])
    if shape[3] == 1:
        pixels = ((pixels.astype(np.int32) @ np.array(GREY, np.int32) + (1 << 14)) >> 15).astype(np.uint8)
    return bytes(entries(tensor, mean=mean, std=std)[pixels].tobytes())


def fit(image: np.ndarray, size_px: int) -> np.ndarray:
    """Return the centred square of uint8 [H, W, C] as uint8 [size_px, size_px, C]: steps 1 to 3."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = image[top : top + side, left : left + side]
    while pixels.shape[0] >= 2 * size_px:
        pixels = _halve(pixels)
    return pixels if pixels.shape[0] == size_px else _resize(pixels, size_px)


def entries(tensor: TensorInfo, *, mean: float, std: float) -> np.ndarray:
    """Return what each pixel value is stored as, [256] in the tensor's dtype: step 4."""
    if not (std > 0 and np.isfinite(mean)):
        raise LinkError(
            f"normalisation: expected a finite mean and a positive std, got {mean} and {std}",
            code="normalisation",
        )
    steps = (np.arange(256, dtype=np.float64) - mean) / std / tensor.scale
    stored = np.trunc(steps + np.copysign(0.5, steps)) + tensor.zero_point
    limits = np.iinfo(tensor.dtype)
    return np.clip(stored, limits.min, limits.max).astype(tensor.dtype)


def _halve(pixels: np.ndarray) -> np.ndarray:
    side = pixels.shape[0] // 2 * 2
    sums = pixels[:side:2, :side].astype(np.uint16) + pixels[1:side:2, :side]
    return ((sums[:, ::2] + sums[:, 1::2] + 2) >> 2).astype(np.uint8)


def _resize(pixels: np.ndarray, size_px: int) -> np.ndarray:
    first, weight = _taps(pixels.shape[0], size_px)
    second = np.minimum(first + 1, pixels.shape[0] - 1)
    wide = pixels.astype(np.int32)
    across = weight[None, :, None]
    rows = wide[:, first] * (256 - across) + wide[:, second] * across
    down = weight[:, None, None]
    return ((rows[first] * (256 - down) + rows[second] * down + (1 << 15)) >> 16).astype(np.uint8)


def _taps(side: int, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each position its first pixel and the weight (of 256) of the next one, int32 [size_px] each."""
    whole = 2 * size_px
    at = (2 * np.arange(size_px, dtype=np.int64) + 1) * side - size_px
    first, part = at // whole, 256 * (at % whole)
    nearest = (2 * part + whole) // (2 * whole)
    tie = (2 * part + whole) % (2 * whole) == 0
    weight = np.where(tie & (nearest % 2 == 1), nearest - 1, nearest)
    outside = (first < 0) | (first >= side - 1)
    return np.clip(first, 0, side - 1).astype(np.int32), np.where(outside, 0, weight).astype(np.int32)


def _shape(expected: str, got: str) -> LinkError:
    return LinkError(f"image: expected {expected}, got {got}", code="image-shape")

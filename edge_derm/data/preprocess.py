"""Pixels in, pixels out: the one geometry that training, calibration, prediction, camera and firmware share.

Integer arithmetic throughout, so that the bytes are the same on x86, on arm64 and in C:

1. **Crop** to the centred square of side ``s = min(height, width)``; the first row is ``(height − s) // 2``, the first
   column ``(width − s) // 2``.
2. **Halve** while the side is at least twice the wanted size: an odd side first loses its last row and column, then
   each 2 × 2 block becomes ``(a + b + c + d + 2) >> 2``. This is an anti-aliasing box filter.
3. **Resize** to ``size_px`` with OpenCV's ``INTER_LINEAR_EXACT`` (fixed point, half-pixel centres); it also enlarges.

The model then computes on ``pixel / 128 − 1``; that lives in the model's input quantisation, not here.
"""

from __future__ import annotations

import functools
import math
import platform
import threading
from pathlib import Path
from typing import Any, Mapping

import cv2
import numpy as np

from edge_derm.errors import DataError

PREPROCESSING: Mapping[str, Any] = {
    "version": 1,
    "crop": "centre-square",
    "reduce": "halve-2x2-box",
    "resize": "linear-exact",
}


def preprocess(image: np.ndarray, size_px: int, *, order: str = "rgb") -> np.ndarray:
    """The model's pixels for one image.

    Args:
        image: uint8 [H, W, 3].
        size_px: side of the square wanted, at least 1.
        order: ``rgb`` or ``bgr``, the channel order of ``image``.

    Returns:
        uint8 [size_px, size_px, 3], RGB, contiguous.

    Raises:
        DataError: ``image-shape``, ``image-order``.

    Example:
        >>> preprocess(np.full((480, 640, 3), 7, np.uint8), 128).shape
        (128, 128, 3)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(
            f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}", code="image-shape"
        )
    if order not in ("rgb", "bgr"):
        raise DataError(f"order: expected rgb or bgr, got {order!r}", code="image-order")
    pixels, level = _crop(image), 0
    while pixels.shape[0] >= 2 * size_px:
        pixels, level = _halve(pixels, level), level + 1
    if pixels.shape[0] != size_px:
        return _resize(pixels, size_px, order)
    if order == "bgr":
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return pixels.copy() if level else np.ascontiguousarray(pixels)


class _Scratch(threading.local):
    """Memory of a thread for what lies between the steps: fresh arrays of this size cost a page fault every 4 KiB, more than the
    arithmetic. Never handed out."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """uint8 of ``shape`` to be overwritten; None above ``SCRATCH_BYTES``: let OpenCV allocate."""
        if math.prod(shape) > SCRATCH_BYTES:
            return None
        held = self._held.get(name)
        if held is None or held.shape != shape:
            held = self._held[name] = np.empty(shape, np.uint8)
        return held


SCRATCH_BYTES = 2**22
# Through a map three channels cost less memory traffic than four on x86-64; on arm64 they take three quarters more instructions.
_THREE_CHANNELS = platform.machine() in ("x86_64", "AMD64")
_Maps = tuple[np.ndarray, np.ndarray]
_scratch = _Scratch()


def _crop(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _resize(pixels: np.ndarray, size_px: int, order: str) -> np.ndarray:
    maps = _maps(pixels.shape[0], size_px)
    if maps is None or not _THREE_CHANNELS:
        return _resize_four(pixels, size_px, order, maps)
    small = _scratch.array("small", (size_px, size_px, 3)) if order == "bgr" else None
    small = cv2.remap(pixels, *maps, cv2.INTER_LINEAR, dst=small, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB) if order == "bgr" else small


def _resize_four(pixels: np.ndarray, size_px: int, order: str, maps: _Maps | None) -> np.ndarray:
    # Each channel is resized by itself, so a fourth one changes nothing; four are a vector, three are not: a fifth faster.
    side = pixels.shape[0]
    code = cv2.COLOR_BGR2RGBA if order == "bgr" else cv2.COLOR_RGB2RGBA
    four = cv2.cvtColor(pixels, code, dst=_scratch.array("four", (side, side, 4)))
    small = _scratch.array("four small", (size_px, size_px, 4))
    if maps is None:
        small = cv2.resize(four, (size_px, size_px), dst=small, interpolation=cv2.INTER_LINEAR_EXACT)
    else:
        small = cv2.remap(four, *maps, cv2.INTER_LINEAR, dst=small, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(small, cv2.COLOR_RGBA2RGB)


@functools.lru_cache(maxsize=4)
def _maps(side: int, size_px: int) -> _Maps | None:
    """Where ``remap`` finds each pixel of the smaller square: whole part int16 [S, S, 2], 1/32 parts uint16 [S, S].

    None where a position is no whole number of 1/32, the fraction that ``remap`` has; where the square grows, which ``remap``
    does no faster; where the maps would be large. Otherwise its weights, multiples of 1/1024, are exact as those of
    INTER_LINEAR_EXACT are, and both round halves up: the same bytes in less time.
    """
    if 16 * side % size_px or side < size_px or 6 * size_px**2 > SCRATCH_BYTES:
        return None
    at = (2 * np.arange(size_px) + 1) * (16 * side // size_px) - 16  # half-pixel centres, in 1/32
    whole, part = at >> 5, at & 31
    positions = np.stack(np.meshgrid(whole, whole), axis=-1).astype(np.int16)
    return positions, (part[:, None] * 32 + part).astype(np.uint16)


def _halve(pixels: np.ndarray, level: int) -> np.ndarray:
    # For a factor of exactly two INTER_AREA is the rounded mean of four, in integers; a test holds it to that.
    side = pixels.shape[0] // 2
    half = _scratch.array(f"half {level}", (side, side, 3))
    return cv2.resize(pixels[: 2 * side, : 2 * side], (side, side), dst=half, interpolation=cv2.INTER_AREA)


def read_image(path: Path | str) -> np.ndarray:
    """An image file as uint8 RGB [H, W, 3]: EXIF orientation applied, grey repeated, alpha dropped, 16 bits to 8.

    Raises:
        DataError: ``image-missing``, ``image-unreadable``, ``image-broken`` (not an image OpenCV can decode whole).
    """
    path = Path(path)
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected an image, found no such file", code="image-missing") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", code="image-unreadable") from error
    image = decode(data)
    if image is None:
        raise DataError(
            f"{path}: expected a JPEG, PNG, BMP, TIFF or WebP image, got {data.size} bytes that do not decode: "
            "replace or remove the file",
            code="image-broken",
        )
    return image


def decode(data: np.ndarray) -> np.ndarray | None:
    """Encoded bytes (uint8 [N]) → uint8 RGB [H, W, 3], or None where they are not a whole image."""
    if data.size == 0 or _truncated_jpeg(data):
        return None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _truncated_jpeg(data: np.ndarray) -> bool:
    # OpenCV fills what is missing of a cut JPEG with grey and says nothing; a whole one has an end-of-image marker.
    return data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:].tobytes()

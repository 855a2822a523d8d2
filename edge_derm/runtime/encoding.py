"""Pixels → what a model's input tensor stores: stored = round((pixel − mean) / std / scale) + zero point.

With this package's own normalisation, pixel/128 − 1 at scale 1/128, that is the pixel itself (uint8) or the
pixel with its top bit flipped (int8): no arithmetic; LiteRT's float models take the pixel too (``bundle.pixels``). Any other
quantisation goes through a table of 256 entries.
"""

from __future__ import annotations

from functools import partial
from typing import Callable

import numpy as np

from edge_derm.bundle import Input
from edge_derm.errors import BundleError
from edge_derm.runtime.backends import TensorSpec

_PIXEL = np.dtype(np.uint8)
_TOP_BIT = np.array(0x80, _PIXEL)  # as an array and with a dtype at hand, a microsecond less in every call

Write = Callable[[np.ndarray, np.ndarray], None]


def table(shape: Input, spec: TensorSpec) -> np.ndarray:
    """What each pixel value is stored as.

    Returns:
        [256, 1] or [256, 3] in the tensor's dtype: one column, or one per channel.

    Raises:
        BundleError: ``model-quantization``: an integer input without a scale.
    """
    real = (np.arange(256, dtype=np.float64)[:, None] - np.array(shape.mean)) / np.array(shape.std)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return real.astype(dtype)
    if not spec.scale > 0:
        raise BundleError(
            f"model.tflite: its {spec.dtype} input has no scale: quantise it, or give it a float input",
            code="model-quantization",
        )
    limits = np.iinfo(dtype)
    steps = real / spec.scale
    nearest = np.trunc(steps + np.copysign(0.5, steps))  # halves away from zero, as the QUANTIZE operator
    return np.clip(nearest + spec.zero_point, limits.min, limits.max).astype(dtype)


def encoder(shape: Input, spec: TensorSpec) -> Write:
    """The fastest exact way to write uint8 images [N, S, S, 3] into the input tensor's memory.

    Returns:
        ``write(images, view)``; every choice stores exactly ``table(shape, spec)[images]``.
    """
    entries = table(shape, spec)
    pixels = np.arange(256, dtype=np.uint8)
    plain = (entries == entries[:, :1]).all()
    if plain and spec.dtype == "uint8" and np.array_equal(entries[:, 0], pixels):
        write: Write = _copy
    elif plain and spec.dtype == "int8" and np.array_equal(entries[:, 0].view(np.uint8), pixels ^ _TOP_BIT):
        write = _flip
    elif spec.dtype == "float32" and plain and set(shape.mean) == set(shape.std) == {128.0}:
        write = _centred
    else:
        write = _lookup(np.ascontiguousarray(entries[:, 0]) if plain else entries)
    return write if shape.colour_order == "rgb" else _reversed(write)


def bound(write: Write, view: np.ndarray) -> Callable[[np.ndarray], object]:
    """``write`` into one tensor's memory for good: what depends on the memory alone is not done in every call."""
    if write is _flip:
        return partial(np.bitwise_xor, _TOP_BIT, out=view.view(_PIXEL))
    return lambda images: write(images, view)


def _copy(images: np.ndarray, view: np.ndarray) -> None:
    np.copyto(view, images)


def _flip(images: np.ndarray, view: np.ndarray) -> None:
    np.bitwise_xor(images, _TOP_BIT, view.view(_PIXEL))


def _centred(images: np.ndarray, view: np.ndarray) -> None:
    view[...] = np.bitwise_xor(images, _TOP_BIT).view(np.int8)
    np.multiply(view, np.float32(1 / 128), out=view)  # a power of two, exact


def _lookup(entries: np.ndarray) -> Write:
    if entries.ndim == 1:
        return lambda images, view: _take(entries, images, view)
    columns = [np.ascontiguousarray(entries[:, channel]) for channel in range(3)]

    def write(images: np.ndarray, view: np.ndarray) -> None:
        for channel, column in enumerate(columns):
            view[..., channel] = column[images[..., channel]]

    return write


def _take(entries: np.ndarray, images: np.ndarray, view: np.ndarray) -> None:
    np.take(entries, images, out=view, mode="clip")  # "raise" would go through a second buffer


def _reversed(write: Write) -> Write:
    return lambda images, view: write(images[..., ::-1], view)

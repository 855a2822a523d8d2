"""What a person gives as input (an image file, a .npy, ``lcg:SEED``) → the bytes of an input tensor."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from firmware_bridge.graph import BridgeError
from firmware_bridge.link import TensorInfo
from firmware_bridge.pixels import encode_image


def read_input(given: str, tensor: TensorInfo, *, mean: float = 128.0, std: float = 128.0) -> bytes:
    """Return the bytes of ``tensor`` for ``given``.

    Args:
        given: an image file (cropped, resized and quantised as ``SPEC.md`` says), a .npy of the tensor's own dtype
            and number of values, or ``lcg:SEED``.
        mean, std: for images: the model computes on (pixel − mean) / std.

    Raises:
        BridgeError: ``input-missing``, ``input-broken``, ``input-mismatch``; LinkError of ``pixels``.
    """
    if given.startswith("lcg:"):
        return make_lcg(_read_seed(given), tensor.bytes)
    if given.endswith(".npy"):
        return _read_array(Path(given), tensor)
    return encode_image(read_image(Path(given)), tensor, mean=mean, std=std)


def make_lcg(seed: int, count: int) -> bytes:
    """Return ``count`` bytes of s = s · 1664525 + 1013904223 (mod 2^32), the top byte of each s.

    >>> list(make_lcg(0, 4))
    [60, 71, 209, 170]
    """
    out = bytearray(count)
    for index in range(count):
        seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
        out[index] = seed >> 24
    return bytes(out)


def read_image(path: Path) -> np.ndarray:
    """Return an image file as uint8 RGB [H, W, 3]; BridgeError ``input-missing``, ``input-broken``."""
    data = np.frombuffer(_read(path), np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise BridgeError(
            f"{path}: expected a JPEG, PNG, BMP, TIFF or WebP image, a .npy or lcg:SEED, got {data.size} bytes "
            "that do not decode",
            code="input-broken",
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BridgeError(f"{path}: cannot be read: {error.strerror}", code="input-missing") from error


def _read_array(path: Path, tensor: TensorInfo) -> bytes:
    _read(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BridgeError(f"{path}: expected a .npy array: {error}", code="input-broken") from error
    if not isinstance(array, np.ndarray) or array.dtype != tensor.dtype or array.size != tensor.bytes:
        got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise BridgeError(
            f"{path}: expected {tensor.dtype} {list(tensor.shape)}, what the model's input stores, got {got}",
            code="input-mismatch",
        )
    return array.tobytes()


def _read_seed(given: str) -> int:
    number = given[len("lcg:") :]
    if not (number.isascii() and number.isdigit()) or int(number) >= 1 << 32:
        raise BridgeError(f"expected lcg:SEED, a seed of 32 bits; got {given[:60]!r}", code="input-mismatch")
    return int(number)

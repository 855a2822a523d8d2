"""What lies between a scene and a model: camera-like channels.

Each is a function of one uint8 RGB image [S, S, 3] that gives a uint8 image of the same size. A perturbation that dies in a
channel is no threat through it; a channel put in front of the model on purpose is a defence.
"""

from __future__ import annotations

from typing import Callable, Mapping

import cv2
import numpy as np

Channel = Callable[[np.ndarray], np.ndarray]


def jpeg(quality: int) -> Channel:
    """Through a JPEG file."""

    def through(image: np.ndarray) -> np.ndarray:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        back = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert back is not None
        return np.ascontiguousarray(back[..., ::-1])

    return through


def resized(scale: float) -> Channel:
    """To another size and back: a camera whose pixels are not the model's."""

    def through(image: np.ndarray) -> np.ndarray:
        side = image.shape[0]
        other = max(1, round(side * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(
            cv2.resize(image, (other, other), interpolation=way), (side, side), interpolation=cv2.INTER_LINEAR
        )

    return through


def blurred(sigma: float) -> Channel:
    """Out of focus: a Gaussian of ``sigma`` pixels."""
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


def median(side: int) -> Channel:
    """The median of a square."""
    return lambda image: cv2.medianBlur(image, side)


def bits(count: int) -> Channel:
    """Rounded to ``count`` bits a channel."""
    levels = 2**count - 1
    table = np.rint(np.rint(np.arange(256) / 255 * levels) / levels * 255).astype(np.uint8)
    return lambda image: table[image]


def cast(red: float, green: float, blue: float) -> Channel:
    """Each channel times a factor: another white balance."""
    gains = np.array([red, green, blue])
    return lambda image: np.clip(np.rint(image * gains), 0, 255).astype(np.uint8)


def shifted(down: int, right: int) -> Channel:
    """Moved by some pixels, the edge mirrored: the lesion is never twice at the same place."""

    def through(image: np.ndarray) -> np.ndarray:
        by = max(abs(down), abs(right))
        side = image.shape[0]
        wide = cv2.copyMakeBorder(image, by, by, by, by, cv2.BORDER_REFLECT_101)
        return np.ascontiguousarray(wide[by + down : by + down + side, by + right : by + right + side])

    return through


CHANNELS: Mapping[str, Channel] = {
    "jpeg 95": jpeg(95),
    "jpeg 75": jpeg(75),
    "jpeg 50": jpeg(50),
    "resize 2 and back": resized(2.0),
    "resize 0.75 and back": resized(0.75),
    "resize 0.5 and back": resized(0.5),
    "blur 0.7 px": blurred(0.7),
    "blur 1.5 px": blurred(1.5),
    "colour cast": cast(1.08, 1.0, 0.9),
    "shift 1 px": shifted(1, 1),
    "shift 4 px": shifted(4, -4),
}
DEFENCES: Mapping[str, Channel] = {
    "jpeg 75": jpeg(75),
    "jpeg 40": jpeg(40),
    "median 3 px": median(3),
    "blur 1 px": blurred(1.0),
    "resize 0.5 and back": resized(0.5),
    "4 bits a channel": bits(4),
    "3 bits a channel": bits(3),
}


def apply(channel: Channel, images: np.ndarray) -> np.ndarray:
    """uint8 [N, S, S, 3] through a channel."""
    return np.stack([channel(image) for image in images])

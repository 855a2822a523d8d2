"""Skin tone around a lesion: the individual typology angle of a picture's border. An estimate from uncalibrated colours."""

from __future__ import annotations

import numpy as np

RING = 0.12  # of the side, on each side: where a dermoscopic picture shows skin rather than lesion
DARK = 15.0  # L* below which a border pixel is vignette, hair or a ruler
LIGHTEST = 0.6  # share of the remaining border that is taken: hair and shadow are darker than skin
TONES = (
    (55.0, "very light"),
    (41.0, "light"),
    (28.0, "intermediate"),
    (10.0, "tan"),
    (-30.0, "brown"),
    (-90.0, "dark"),
)
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65


def typology_angles(images: np.ndarray) -> np.ndarray:
    """atan((L* − 50) / b*) in degrees (Chardon, Cretois and Hourseau, 1991), float64 [N]; NaN where no skin is seen.

    Args:
        images: uint8 RGB [N, S, S, 3].
    """
    side = images.shape[1]
    width = max(1, round(RING * side))
    ring = np.ones((side, side), bool)
    ring[width:-width, width:-width] = False
    return np.array([_angle(lab(image[ring])) for image in images], np.float64)


def _angle(border: np.ndarray) -> float:
    skin = border[border[:, 0] >= DARK]
    if len(skin) < 0.05 * len(border):
        return float("nan")
    skin = skin[skin[:, 0] >= np.quantile(skin[:, 0], 1 - LIGHTEST)]
    lightness, _, yellow = np.median(skin, axis=0)
    return float(np.degrees(np.arctan2(lightness - 50.0, max(yellow, 1e-6))))


def tone(angle: float) -> str:
    """``very light`` … ``dark`` (Del Bino and Bernerd, 2013, doi 10.1111/bjd.12529), or ``unknown``."""
    if not np.isfinite(angle):
        return "unknown"
    return next((name for limit, name in TONES if angle > limit), TONES[-1][1])


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65, float64 [M, 3], of sRGB pixels uint8 [M, 3]."""
    values = rgb.astype(np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)

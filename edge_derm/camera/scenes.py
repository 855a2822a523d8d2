"""The ``synthetic`` source's film: drawn lesions under a hand-held lens, some of it spoilt on purpose.

Every lesion is shown for 240 frames in eight scenes of 30, so that all the gate's messages can be seen in a quarter of
a minute; then comes the next lesion. Frame ``n`` is always the same picture.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from edge_derm.data import synthetic

WIDTH_PX, HEIGHT_PX = 640, 480
FRAMES = 30
SCENES = ("sharp", "sharp", "sharp", "blurred", "sharp", "dark", "away", "glare")
_MARGIN_PX = 48


def frame(number: int, *, scene: str | None = None) -> np.ndarray:
    """Frame ``number`` of the film (of one ``scene`` only, if given): uint8 BGR [480, 640, 3]."""
    turn, name = _where(number)
    name = scene or name
    still = _still(turn, name == "away")
    shift = 12 * np.array([np.sin(number / 9), np.cos(number / 13)])
    turned = cv2.getRotationMatrix2D((still.shape[1] / 2, still.shape[0] / 2), 3 * np.sin(number / 17), 1)
    turned[:, 2] += shift - _MARGIN_PX
    seen = cv2.warpAffine(
        still, turned, (WIDTH_PX, HEIGHT_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return _spoil(seen, name)


def _where(number: int) -> tuple[int, str]:
    turn, rest = divmod(number, FRAMES * len(SCENES))
    return turn, SCENES[rest // FRAMES]


@functools.lru_cache(maxsize=2)
def _still(turn: int, away: bool) -> np.ndarray:
    """The picture the lens wanders over, BGR, a margin larger than a frame; ``away``: its skin without the lesion."""
    drawn = cv2.cvtColor(synthetic.draw(turn % 1000), cv2.COLOR_RGB2BGR)
    if away:
        drawn = np.tile(drawn[2:22, 70:90], (8, 8, 1))
        drawn = cv2.GaussianBlur(drawn, (0, 0), 6)
    side = HEIGHT_PX + 2 * _MARGIN_PX
    large = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(turn).normal(0, 3, large.shape)
    large = np.clip(large + grain, 0, 255).astype(np.uint8)
    wide = (WIDTH_PX - HEIGHT_PX) // 2
    return cv2.copyMakeBorder(large, 0, 0, wide, wide, cv2.BORDER_REFLECT)


def _spoil(pixels: np.ndarray, scene: str) -> np.ndarray:
    if scene == "blurred":
        return cv2.GaussianBlur(pixels, (0, 0), 12)
    if scene == "dark":
        return (pixels * np.float32(0.12)).astype(np.uint8)
    if scene == "glare":
        pixels = pixels.copy()
        cv2.circle(pixels, (WIDTH_PX // 2 + 30, HEIGHT_PX // 2 - 30), 110, (255, 255, 255), -1)
        return pixels
    return pixels

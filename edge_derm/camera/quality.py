"""The gate before any prediction: is this frame worth an answer? If not, what should the person do?

Everything is measured on the frame's centre square at 160 px, reduced by ``data.preprocess`` like the model's own
input: detail the model cannot see is not asked for. ``benchmarks/camera_quality.py`` measures each figure's ROC on real
and on spoilt pictures; the limits below were chosen there, so that about one clear dermoscopic picture in fifty is
refused by all checks together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Mapping

import cv2
import numpy as np

from edge_derm.data.preprocess import preprocess

SIDE_PX = 160
MESSAGES: Mapping[str, str] = {
    "dark": "too dark: more light on the skin",
    "bright": "too bright: less light, or more distance",
    "glare": "glare: tilt the lens or use a polariser",
    "cast": "wrong colours: set the white balance, or change the light",
    "absent": "no lesion seen: point the lens at it",
    "blurred": "too blurred: hold still and focus",
    "small": "too far: move closer to the lesion",
    "off-centre": "off centre: move the lesion to the middle",
}


@dataclass(frozen=True)
class Limits:
    """What a frame must reach; a frame outside is refused with the message of that name.

    ``dark`` and ``contrast`` leave room for dark skin; ``cast`` is a box in a*b*: (least a, most a, least b, most b).
    """

    dark: float = 45.0
    bright: float = 225.0
    glare: float = 0.01
    cast: tuple[float, float, float, float] = (-2.0, 52.0, -20.0, 34.0)
    focus: float = 4.2
    contrast: float = 12.0
    area: float = 0.02
    offset: float = 0.33


@dataclass(frozen=True)
class Quality:
    """One frame's figures.

    ``light``: mean luminance, 0–255. ``glare``: share of burnt-out pixels. ``red``, ``yellow``: median a* and b* of
    CIELAB. ``focus``: standard deviation of the Laplacian of luminance. ``contrast``: luminance of the surroundings
    minus that of the lesion (split by Otsu's threshold). ``area``: the lesion's share of the square. ``offset``:
    distance of its centre from the middle, in sides. ``problem``: a key of MESSAGES, or None for a good frame.
    """

    light: float
    glare: float
    red: float
    yellow: float
    focus: float
    contrast: float
    area: float
    offset: float
    problem: str | None

    @property
    def message(self) -> str | None:
        """What the person can do, or None for a good frame."""
        return MESSAGES[self.problem] if self.problem else None


def assess(image: np.ndarray, limits: Limits = Limits(), *, order: str = "bgr") -> Quality:
    """Figures and verdict of one frame.

    Args:
        image: uint8 [H, W, 3].
        order: ``bgr`` (cameras) or ``rgb``.

    Raises:
        DataError: as ``preprocess``.
    """
    square = preprocess(image, SIDE_PX, order=order)
    grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY)
    red, yellow = _colour(square)
    contrast, area, offset = _lesion(grey)
    figures = Quality(
        light=float(grey.mean()),
        glare=cv2.countNonZero(cv2.inRange(square, (250, 250, 250), (255, 255, 255))) / SIDE_PX**2,
        red=red,
        yellow=yellow,
        focus=float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))[1][0, 0]),
        contrast=contrast,
        area=area,
        offset=offset,
        problem=None,
    )
    return replace(figures, problem=_problem(figures, limits))


def _problem(q: Quality, limits: Limits) -> str | None:
    # In the order a person should mend them: without light nothing else can be told.
    least_red, most_red, least_yellow, most_yellow = limits.cast
    checks = {
        "dark": q.light < limits.dark,
        "bright": q.light > limits.bright,
        "glare": q.glare > limits.glare,
        "cast": not (least_red <= q.red <= most_red and least_yellow <= q.yellow <= most_yellow),
        "absent": q.contrast
        < limits.contrast,  # before focus: plain skin has no detail, a blurred lesion still contrast
        "blurred": q.focus < limits.focus,
        "small": q.area < limits.area,
        "off-centre": q.offset > limits.offset,
    }
    return next((name for name, failed in checks.items() if failed), None)


def _colour(square: np.ndarray) -> tuple[float, float]:
    small = cv2.resize(square, (SIDE_PX // 4, SIDE_PX // 4), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    return float(np.median(lab[..., 1])) - 128, float(np.median(lab[..., 2])) - 128


def _lesion(grey: np.ndarray) -> tuple[float, float, float]:
    """(contrast, area, offset) of the dark region nearest to the middle; (0, 0, 1) where there is none."""
    small = cv2.GaussianBlur(cv2.resize(grey, (80, 80), interpolation=cv2.INTER_AREA), (0, 0), 1.5)
    _, mask = cv2.threshold(small, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    inside, outside = cv2.mean(small, mask)[0], cv2.mean(small, cv2.bitwise_not(mask))[0]
    count, marks, stats, centres = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return 0.0, 0.0, 1.0
    weights = np.bincount(marks.ravel(), _MIDDLE, count)
    chosen = 1 + int(np.argmax(weights[1:]))
    offset = float(np.hypot(*(centres[chosen] / 79 - 0.5)))
    return outside - inside, float(stats[chosen, cv2.CC_STAT_AREA]) / 6400, offset


_AXIS = np.linspace(-0.5, 0.5, 80)
_MIDDLE = np.exp(-(_AXIS[:, None] ** 2 + _AXIS**2) / 0.125).ravel()

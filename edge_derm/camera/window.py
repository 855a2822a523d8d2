"""The window on a desktop: the frame with what there is to say drawn on it. Needs an OpenCV built with windows."""

from __future__ import annotations

import math
from typing import Callable

import cv2
import numpy as np

from edge_derm.camera.frames import Frame
from edge_derm.camera.loop import Answer
from edge_derm.camera.overlay import shown
from edge_derm.errors import DataError

KEYS = "q quit   f freeze   s snapshot"
NOTICE = "Not a medical device"
_GOOD, _DOUBT, _BAD = (90, 200, 90), (60, 190, 240), (90, 90, 240)  # BGR
_TITLE = "edge-derm"
_FONT, _LEAST_PX = cv2.FONT_HERSHEY_SIMPLEX, 360


class Window:
    """A sink that shows frames; ``stop`` is called on q, Escape or the window's close button."""

    def __init__(self, stop: Callable[[], None], snapshot: Callable[[np.ndarray], None]) -> None:
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(_TITLE, 960, 720)
        except cv2.error as error:
            raise DataError(
                "--view window: this OpenCV has no windows (or there is no display): use --view web, or on a desktop "
                "replace opencv-python-headless by opencv-python (never both)",
                code="view-window",
            ) from error
        self._stop, self._snapshot = stop, snapshot
        self._frozen = False

    def __call__(self, frame: Frame, answer: Answer) -> None:
        """Show one frame and obey the keyboard."""
        picture = draw(shown(frame, answer), answer)
        if not self._frozen:
            cv2.imshow(_TITLE, picture)
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), 27) or cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._stop()
        self._frozen ^= key == ord("f")
        if key == ord("s"):
            self._snapshot(picture)

    def close(self) -> None:
        """Remove the window."""
        cv2.destroyWindow(_TITLE)


def draw(pixels: np.ndarray, answer: Answer) -> np.ndarray:
    """A copy of a frame with state, the label named and two more, latency, notice and keys.

    uint8 BGR [H, W, 3]; below 360 lines enlarged by a whole number, so that the text can be read.
    """
    larger = math.ceil(_LEAST_PX / pixels.shape[0])
    picture = cv2.resize(pixels, None, fx=larger, fy=larger) if larger > 1 else pixels.copy()
    height = picture.shape[0]
    step = max(16, height // 20)
    headline, colour = headline_of(answer)
    _text(picture, headline, 0, step, colour)
    if answer.prediction:
        named, p = answer.prediction.label, answer.prediction.probabilities
        ranked = sorted(p.items(), key=lambda item: (item[0] != named, -item[1]))[:3]
        for row, (label, value) in enumerate(ranked):
            _bar(picture, f"{label} {value:.0%}", value, row + 1, step)
        kept = answer.prediction.prediction_set
        if kept is not None:
            _text(picture, "plausible: " + (", ".join(kept) or "none of them"), 4, step, (230, 230, 230))
    _text(
        picture,
        f"{NOTICE}   {answer.latency_ms['total']:.1f} ms   {KEYS}",
        height // step - 2,
        step,
        (230, 230, 230),
    )
    return picture


def headline_of(answer: Answer) -> tuple[str, tuple[int, int, int]]:
    """The one line that matters, and its colour: never a bare label where there is doubt."""
    if answer.status == "rejected":
        return f"abstained: {answer.quality.message}", _BAD
    if answer.prediction is None:
        return f"no answer: {answer.trouble or 'the model is starting'}", _BAD
    if answer.prediction.abstained:
        return "abstained: not sure enough to name it", _DOUBT
    if not answer.steady:
        return f"unsteady: {answer.prediction.label}? {answer.agreement:.0%} of the frames agree", _DOUBT
    return answer.prediction.label, _GOOD


def _bar(picture: np.ndarray, text: str, share: float, row: int, step: int) -> None:
    top, right = row * step + step // 4, int(share * picture.shape[1] / 3)
    cv2.rectangle(picture, (0, top), (max(right, 1), top + step), (120, 90, 40), -1)
    _text(picture, text, row, step, (255, 255, 255))


def _text(picture: np.ndarray, text: str, row: int, step: int, colour: tuple[int, int, int]) -> None:
    plain, room = text.encode("ascii", "replace").decode(), picture.shape[1] - 16
    size = step / 32
    size *= min(1.0, room / max(1, cv2.getTextSize(plain, _FONT, size, 1)[0][0]))
    # The outline is the same text moved: a thicker one is wider in OpenCV 5, whose thickness is a font's weight.
    for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        _write(picture, plain, (8 + right, row * step + step + down), size, (0, 0, 0))
    _write(picture, plain, (8, row * step + step), size, colour)


def _write(
    picture: np.ndarray, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]
) -> None:
    cv2.putText(picture, text, place, _FONT, size, colour, 1, cv2.LINE_AA)

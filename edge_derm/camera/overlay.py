"""What a view shows of a frame: its picture, with the attention mask over the square that the model saw where one was asked for."""

from __future__ import annotations

import numpy as np

from edge_derm.camera.frames import Frame
from edge_derm.camera.loop import Answer
from edge_derm.runtime.attention import overlay


def shown(frame: Frame, answer: Answer) -> np.ndarray:
    """uint8 BGR [H, W, 3]; the frame's own pixels, not a copy, without a mask."""
    if answer.mask is None:
        return frame.pixels
    picture = frame.pixels.copy()
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2  # as ``data.preprocess`` crops
    square = picture[top : top + side, left : left + side]
    square[:] = overlay(square[..., ::-1], answer.mask)[..., ::-1]
    return picture

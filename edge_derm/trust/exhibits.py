"""What a person should see of a perturbation: itself, and images with and without it."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from edge_derm.trust import attack

MARGIN = 4


def strip(r: np.ndarray, images: np.ndarray) -> str:
    """A PNG as a data URI: the perturbation (grey is 0, its largest value reaches black or white), then each image twice,
    as it is and perturbed.

    Args:
        r: float32 [S, S, 3]. images: uint8 [N, S, S, 3].
    """
    largest = max(float(np.abs(r).max()), 1e-12)
    tiles = [np.clip(128 + r * (127 / largest), 0, 255)]
    for image in images:
        tiles += [image, attack.add(image, r)]
    gap = np.full((r.shape[0], MARGIN, 3), 255.0)
    row = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    _, data = cv2.imencode(".png", np.rint(row).astype(np.uint8)[..., ::-1])
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode("ascii")

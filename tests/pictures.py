"""Small seeded pictures for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import cv2
import numpy as np


def varied_images(count: int, *, seed: int = 2) -> np.ndarray:
    """uint8 [count, 32, 32, 3] of plain colours with noise and a blob: enough to reach several classes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    images = []
    for _ in range(count):
        ground, spot = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
        inside = ((y - rng.integers(8, 24)) ** 2 + (x - rng.integers(8, 24)) ** 2 < rng.integers(9, 144))[
            ..., None
        ]
        images.append(np.where(inside, spot, ground) + rng.normal(0, rng.uniform(0, 40), (32, 32, 3)))
    return np.clip(images, 0, 255).astype(np.uint8)


def write_classes(folder: Path, names: Sequence[str], count: int = 8) -> Path:
    """A folder of PNG files a class, noise of one colour each."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 60, (40, 40, 3)) + np.roll([150, 60, 0], number)
            cv2.imwrite(str(folder / name / f"{i}.png"), image.astype(np.uint8))
    return folder

"""Corruptions of the real world at five severities, and the error they cost: what happens without an attacker.

Each takes one uint8 RGB image [S, S, 3], a severity from 1 to 5 and a random generator, and gives a uint8 image of the same
size; what is drawn scales with S. Severities are ours, chosen by eye on dermoscopic images of 128 to 224 pixels.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import cv2
import numpy as np

from edge_derm.trust import channels
from edge_derm.trust.intervals import proportion

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
SEVERITIES = (1, 2, 3, 4, 5)


def hair(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Dark, bent, thin lines."""
    side = image.shape[0]
    layer = image.copy()
    for _ in range(4 * severity):
        ends, bend = rng.uniform(-0.1, 1.1, (2, 2)) * side, rng.normal(0, 0.15, 2) * side
        t = np.linspace(0, 1, 24)[:, None]
        path = ends[0] * (1 - t) + ends[1] * t + bend * np.sin(np.pi * t)
        colour = tuple(int(c) for c in rng.uniform(10, 60) * np.array([1.0, 0.8, 0.7]))
        points = np.rint(path * 16).astype(np.int32).reshape(-1, 1, 2)
        width = max(1, round(side / 128 * rng.uniform(0.6, 1.6)))
        cv2.polylines(layer, [points], False, colour, width, cv2.LINE_AA, shift=4)
    return layer


def ruler(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A scale with ticks at one edge, wider with severity."""
    side = image.shape[0]
    out = np.rot90(image, int(rng.integers(4))).copy()
    turns = 4 - int(rng.integers(4))
    band = round(side * (0.05 + 0.05 * severity))
    share = 0.55 + 0.08 * severity
    out[-band:] = np.rint(out[-band:] * (1 - share) + 235 * share).astype(np.uint8)
    for number, x in enumerate(np.arange(0, side, side / 24)):
        length = band * (0.7 if number % 5 == 0 else 0.4)
        cv2.line(
            out, (int(x), side - band), (int(x), int(side - band + length)), (20, 20, 20), max(1, side // 128)
        )
    return np.ascontiguousarray(np.rot90(out, turns))


def glare(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Reflections: bright soft spots."""
    side = image.shape[0]
    y, x = np.mgrid[:side, :side] / side
    light = np.zeros((side, side))
    for _ in range(1 + severity):
        cx, cy = rng.uniform(0.1, 0.9, 2)
        wide = rng.uniform(0.03, 0.05 + 0.02 * severity)
        light += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * wide**2))
    share = np.clip(light * (0.5 + 0.1 * severity), 0, 1)[..., None]
    return np.rint(image * (1 - share) + 255 * share).astype(np.uint8)


def defocus(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A disc-shaped blur."""
    radius = (0.01, 0.014, 0.019, 0.026, 0.034)[severity - 1] * image.shape[0]
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT_101)


def jpeg(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Strong compression."""
    return channels.jpeg((50, 35, 22, 14, 8)[severity - 1])(image)


def colour_cast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Another lamp: red and blue pulled apart."""
    pull = 0.05 * severity * float(rng.choice([-1, 1]))
    return channels.cast(1 + pull, 1.0, 1 - pull)(image)


def under_exposure(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Too little light, with the noise that comes with it."""
    gain = (0.8, 0.65, 0.5, 0.38, 0.28)[severity - 1]
    dark = image * gain
    return np.clip(np.rint(dark + rng.normal(0, 1, image.shape) * np.sqrt(dark) * 0.25), 0, 255).astype(
        np.uint8
    )


CORRUPTIONS: Mapping[str, Corruption] = {
    "hair": hair,
    "ruler": ruler,
    "glare": glare,
    "defocus": defocus,
    "jpeg": jpeg,
    "colour cast": colour_cast,
    "under-exposure": under_exposure,
}


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int) -> np.ndarray:
    """uint8 [N, S, S, 3] with one corruption; what is drawn depends on the seed and an image's place alone."""
    return np.stack(
        [
            CORRUPTIONS[name](image, severity, np.random.default_rng([seed, severity, i]))
            for i, image in enumerate(images)
        ]
    )


def errors(
    answers: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    images: np.ndarray,
    targets: np.ndarray,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Error by corruption and severity at several places, and its mean.

    Args:
        answers: where → label indices of float32 pixels; the first place is the one the others are measured against.

    Returns:
        ``clean`` and ``mean_error`` (over corruptions and severities) by place; ``relative``: mean over corruptions of the
        ratio of summed errors to those of the first place (Hendrycks, Dietterich 2019, with the float parent as the
        reference); ``rows`` with an interval a severity.
    """
    clean = {where: share(answer, images, targets) for where, answer in answers.items()}
    rows: list[dict[str, Any]] = []
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            made = corrupt(images, name, severity, seed=seed)
            rows += [
                {
                    "corruption": name,
                    "severity": severity,
                    "where": where,
                    "error": share(answer, made, targets),
                }
                for where, answer in answers.items()
            ]
    return {
        "clean": clean,
        "mean_error": {where: float(np.mean(_values(rows, where))) for where in answers},
        "relative": {where: _relative(rows, where, next(iter(answers))) for where in answers},
        "rows": rows,
    }


def share(
    answer: Callable[[np.ndarray], np.ndarray], images: np.ndarray, targets: np.ndarray
) -> dict[str, Any]:
    """Share of wrong answers."""
    return proportion(int((answer(images.astype(np.float32)) != targets).sum()), len(targets))


def _values(rows: Sequence[Mapping[str, Any]], where: str, name: str | None = None) -> list[float]:
    return [
        row["error"]["value"] for row in rows if row["where"] == where and name in (None, row["corruption"])
    ]


def _relative(rows: Sequence[Mapping[str, Any]], where: str, reference: str) -> float | None:
    ratios = []
    for name in CORRUPTIONS:
        base = sum(_values(rows, reference, name))
        if base == 0:
            return None
        ratios.append(sum(_values(rows, where, name)) / base)
    return float(np.mean(ratios))

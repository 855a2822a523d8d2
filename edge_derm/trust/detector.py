"""Flags an input that carries a known universal perturbation: a matched filter.

A universal perturbation is the same picture every time, so its own fine structure gives it away. Ours: image and perturbation
lose what a Gaussian of 1.5 pixels keeps, and the score is their inner product with the unit perturbation, the largest over
the known ones. The threshold is the score that a given share of clean images exceeds. It knows directions it was given; one
that is moved by a pixel or made otherwise may pass, and the audit measures how many do.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import cv2
import numpy as np

from edge_derm import files
from edge_derm.errors import DataError
from edge_derm.trust import attack
from edge_derm.trust.audit import name_of
from edge_derm.trust.channels import Channel, apply
from edge_derm.trust.intervals import proportion

SIGMA = 1.5


@dataclass(frozen=True)
class Detector:
    """Known directions, float32 [K, S, S, 3] of norm 1, and the score above which an input is flagged."""

    directions: np.ndarray
    threshold: float

    def score(self, images: np.ndarray) -> np.ndarray:
        """float64 [N] of uint8 [N, S, S, 3] (or one image): in pixel units along the best direction.

        Raises:
            DataError: ``audit-shape``: images of another size than the directions.
        """
        images = images[np.newaxis] if images.ndim == 3 else images
        if images.shape[1:] != self.directions.shape[1:]:
            raise DataError(
                f"expected images {list(self.directions.shape[1:])}, got {list(images.shape[1:])}: "
                "fit the detector at the size of this model's input",
                code="audit-shape",
            )
        known = self.directions.reshape(len(self.directions), -1)
        return np.array([(known @ fine(image).ravel()).max() for image in images], np.float64)

    def flags(self, images: np.ndarray) -> np.ndarray:
        """bool [N]: which of the images carry a known direction."""
        return self.score(images) > self.threshold

    def save(self, path: Path) -> None:
        """Write a .npz, whole or not at all."""
        packed = io.BytesIO()
        np.savez_compressed(packed, directions=self.directions, threshold=self.threshold)
        files.write_bytes(path, packed.getvalue())

    @classmethod
    def load(cls, path: Path) -> Detector:
        """Read what ``save`` wrote.

        Raises:
            DataError: ``detector-broken``.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                directions, threshold = stored["directions"], float(stored["threshold"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: expected a detector that audit wrote, got {error}", code="detector-broken"
            ) from error
        return cls(directions, threshold)


def fit(
    perturbations: Sequence[attack.Perturbation], clean: np.ndarray, *, false_alarms: float = 0.01
) -> Detector:
    """A detector of these perturbations.

    Args:
        clean: uint8 [N, S, S, 3], images of the kind the model will see; the threshold is the smallest of their scores that
            at most ``false_alarms`` of as many others are expected to exceed (the largest, for too few).

    Raises:
        DataError: ``audit-empty``: no perturbation that is not zero, or no image.
    """
    moving = [r for r in perturbations if r.pixels.any()]
    if not moving or not len(clean):
        raise DataError(
            "expected perturbations and clean images to fit a detector on, got none", code="audit-empty"
        )
    fine_parts = [fine(r.pixels) for r in moving]
    directions = np.stack([part / max(np.linalg.norm(part), 1e-12) for part in fine_parts]).astype(np.float32)
    scores = np.sort(Detector(directions, 0.0).score(clean))
    place = min(len(scores), int(np.ceil((len(scores) + 1) * (1 - false_alarms)))) - 1
    return Detector(directions, float(scores[place]))


def fine(image: np.ndarray) -> np.ndarray:
    """What a Gaussian blur takes away, float32 [S, S, 3]."""
    real = np.asarray(image, np.float32)
    return real - cv2.GaussianBlur(real, (0, 0), SIGMA)


def judge(
    crafted: Mapping[str, Sequence[attack.Perturbation]],
    *,
    material: np.ndarray,
    images: np.ndarray,
    channels: Mapping[str, Channel] = {},
    false_alarms: float = 0.01,
) -> dict[str, Any]:
    """How good a detector of all of these perturbations is, and how good one that knows all but the one it is asked about.

    Args:
        material: clean images the thresholds are set on. images: others, uint8 [N, S, S, 3], that the rates are of.
        channels: also asked behind each of these, knowing all.
    """
    everything = [(source, r) for source, drawn in crafted.items() for r in drawn if r.pixels.any()]
    if not everything:
        return {"reason": "no perturbation moved the model, so there is none to know"}
    whole = fit([r for _, r in everything], material, false_alarms=false_alarms)
    rows = []
    for source, r in everything:
        seen = np.rint(attack.add(images, r.pixels)).astype(np.uint8)
        others = [other for _, other in everything if other is not r]
        stranger = fit(others, material, false_alarms=false_alarms) if others else None
        rows.append(
            {
                "source": source,
                "norm": name_of(r.norm),
                "target": r.target,
                "known": _rate(whole, seen),
                "unknown": None if stranger is None else _rate(stranger, seen),
                "through": {
                    name: _rate(whole, apply(channel, seen))["value"] for name, channel in channels.items()
                },
            }
        )
    return {
        "directions": len(everything),
        "false_alarms": _rate(whole, images),
        "asked_for": false_alarms,
        "rows": rows,
    }


def _rate(fitted: Detector, images: np.ndarray) -> dict[str, Any]:
    return proportion(int(fitted.flags(images).sum()), len(images))

"""Which images a bundle knows, small enough to travel in it: an image far from all of them is none of the model's business.

Ours: unit features of a few hundred training images at eight bits (``known.npz``); the distance is 1 − cosine to the fifth nearest
(Sun et al., 2022, https://arxiv.org/abs/2204.06507). ``calibrate`` sets the threshold, ``predict`` applies it.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.errors import BundleError

PART, ROLE = "known.npz", "known"
IMAGES = 512
NEIGHBOURS = 5
_STEPS = 127


@dataclass(frozen=True)
class Known:
    """Stored features, int8 [M, F] in steps of ``scale``, and the distance above which an image is foreign."""

    stored: np.ndarray
    scale: float
    threshold: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """float64 [N] of features [N, F].

        Raises:
            BundleError: ``known-broken``: features of another length than this model's.
        """
        if features.shape[1] != self.stored.shape[1]:
            raise BundleError(
                f"{PART}: expected {features.shape[1]} features, as the model gives, got {self.stored.shape[1]}: calibrate again",
                code="known-broken",
            )
        return neighbours(features, self.stored * np.float64(self.scale))

    def dumps(self) -> bytes:
        """The bytes of the bundle's part."""
        packed = io.BytesIO()
        np.savez_compressed(packed, stored=self.stored, scale=self.scale, threshold=self.threshold)
        return packed.getvalue()

    @classmethod
    def of(cls, bundle: Bundle) -> Known | None:
        """What the bundle knows; None where nobody told it.

        Raises:
            BundleError: ``known-broken``.
        """
        name = bundle.named(ROLE)
        return None if name is None else cls.loads(bundle.part(name), f"{bundle.path}: {name}")

    @classmethod
    def loads(cls, data: bytes, where: str) -> Known:
        """What ``dumps`` wrote.

        Raises:
            BundleError: ``known-broken``.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as read:
                made = cls(read["stored"], float(read["scale"]), float(read["threshold"]))
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{where}: expected features that calibrate wrote, got {error}",
                code="known-broken",
            ) from error
        if made.stored.dtype != np.int8 or made.stored.ndim != 2 or not len(made.stored):
            raise BundleError(
                f"{where}: expected int8 [M, F], got {made.stored.dtype} {list(made.stored.shape)}",
                code="known-broken",
            )
        return made


def remember(features: np.ndarray, threshold: float = np.inf) -> Known:
    """The features [M, F] of known images as they are kept."""
    rows = unit(np.asarray(features, np.float64))
    scale = max(float(np.abs(rows).max(initial=0)), 1e-12) / _STEPS
    return Known(np.rint(rows / scale).astype(np.int8), scale, float(threshold))


def neighbours(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """1 − cosine of features [N, F] to the fifth nearest of known unit rows [M, F] (the farthest, of fewer), float64 [N]."""
    f = np.asarray(features, np.float64)
    near = np.empty(len(f))
    rank = min(NEIGHBOURS, len(known))
    for start in range(0, len(f), 256):
        cosines = unit(f[start : start + 256]) @ known.T
        near[start : start + 256] = 1 - np.partition(cosines, -rank, axis=1)[:, -rank]
    return near


def unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))

"""How far an image's features lie from those of the images a model knows: detectors of foreign images. Pure NumPy.

Features are what the classifier layer sees (``Sampler.features``). Both distances are higher for stranger images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_derm.runtime.known import neighbours, unit

BANK = 4096  # images to remember at most
SHRINK = 0.1  # of the covariance towards a multiple of the identity: ours


@dataclass(frozen=True)
class Bank:
    """What known images look like: unit features to be near to, class means and the precision around them."""

    unit: np.ndarray  # float64 [M, F]
    means: np.ndarray  # float64 [classes present, F]
    precision: np.ndarray  # float64 [F, F]

    def distances(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Both distances, float64 [N] each, of features [N, F].

        ``neighbours``: 1 − cosine to the fifth nearest known image (Sun et al., 2022, https://arxiv.org/abs/2204.06507).
        ``mahalanobis``: to the nearest class mean under the shared covariance (Lee et al., 2018,
        https://arxiv.org/abs/1807.03888).
        """
        f = np.asarray(features, np.float64)
        away = f[:, None, :] - self.means[None]
        squared = np.einsum("ncf,fg,ncg->nc", away, self.precision, away, optimize=True)
        return {
            "neighbours": neighbours(f, self.unit),
            "mahalanobis": np.sqrt(np.maximum(0.0, squared.min(axis=1))),
        }


def remember(features: np.ndarray, targets: np.ndarray, *, seed: int = 0) -> Bank:
    """The bank of known images, a random ``BANK`` of them where there are more.

    Args:
        features: float [M, F]. targets: int64 [M].
    """
    f = np.asarray(features, np.float64)
    means = np.stack([f[targets == c].mean(axis=0) for c in np.unique(targets)])
    rest = f - means[np.searchsorted(np.unique(targets), targets)]
    covariance = rest.T @ rest / len(f)
    spread = max(float(np.trace(covariance)) / len(covariance), 1e-12)
    precision = np.linalg.inv((1 - SHRINK) * covariance + SHRINK * spread * np.eye(len(covariance)))
    kept = f if len(f) <= BANK else f[np.random.default_rng(seed).choice(len(f), BANK, replace=False)]
    return Bank(unit(kept), means, precision)

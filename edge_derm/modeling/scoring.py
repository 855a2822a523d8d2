"""The few figures that training looks at between epochs; ``trust`` has the ones with intervals."""

from __future__ import annotations

from typing import Any, Sequence

import keras
import numpy as np


def probabilities(model: keras.Model, pixels: np.ndarray, *, batch: int = 64) -> np.ndarray:
    """float32 [N, C] of a Keras model on preprocessed images, uint8 [N, S, S, 3]."""
    if not len(pixels):
        return np.empty((0, model.output_shape[-1]), np.float32)
    starts = [
        min(i, max(0, len(pixels) - batch)) for i in range(0, len(pixels), batch)
    ]  # one shape, compiled once
    found = np.empty((len(pixels), model.output_shape[-1]), np.float32)
    for start in starts:
        part = pixels[start : start + batch].astype(np.float32) / 128 - 1
        found[start : start + batch] = model.predict_on_batch(part)
    return found


def score(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, AUROC by label (None where a class is absent) and mean cross-entropy in nats.

    Args:
        probabilities: [N, C].
        targets: int64 [N].
    """
    decided = probabilities.argmax(axis=1)
    recalls = [float((decided[targets == c] == c).mean()) for c in np.unique(targets)]
    chosen = np.clip(probabilities[np.arange(len(targets)), targets], 1e-7, 1)
    return {
        "accuracy": float((decided == targets).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "auroc": {label: auroc(probabilities[:, c], targets == c) for c, label in enumerate(labels)},
        "loss": float(-np.log(chosen).mean()),
    }


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive scores above a negative, ties half (Mann–Whitney); None without both kinds."""
    wins, losses = int(positive.sum()), int((~positive).sum())
    if not wins or not losses:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - wins * (wins + 1) / 2) / (wins * losses))


def selection(figures: dict[str, Any]) -> float:
    """One figure to compare networks by: the mean of balanced accuracy and macro AUROC.

    Balanced accuracy alone jumps with a handful of images of the rarest class; the AUROC steadies it.
    """
    areas = [value for value in figures["auroc"].values() if value is not None]
    return (figures["balanced_accuracy"] + (float(np.mean(areas)) if areas else 0.0)) / 2

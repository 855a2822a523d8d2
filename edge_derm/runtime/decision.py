"""From a model's scores to a decision: temperature, entropy, conformal set, abstention. Pure NumPy.

``edge_derm.trust`` fits the figures used here on a calibration split; this module only applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """One image's answer.

    ``probabilities`` by label, in the model's order; ``entropy`` in nats. ``prediction_set``, most probable
    first, is None without a conformal quantile; ``abstained`` is None without an abstain threshold.
    """

    label: str
    probabilities: Mapping[str, float]
    entropy: float
    prediction_set: tuple[str, ...] | None
    abstained: bool | None


def probabilities(
    raw: np.ndarray, *, activation: str = "softmax", temperature: float | None = None, floor: float = 1e-12
) -> np.ndarray:
    """Calibrated probabilities from raw model outputs.

    Args:
        raw: float [N, C], probabilities (``softmax``) or ``logits``, dequantised.
        temperature: divides the logits; None or 1 leaves them (Guo et al., 2017,
            https://arxiv.org/abs/1706.04599). Of a model that ends in a softmax the logits are the
            logarithms of its probabilities.
        floor: the least probability whose logarithm is taken; half a step of a quantised output.

    Returns:
        float32 [N, C], rows summing to 1.
    """
    if activation == "logits":
        return _softmax(raw.astype(np.float64) / (temperature or 1.0))
    if temperature is not None and temperature != 1.0:
        return _softmax(np.log(np.maximum(raw.astype(np.float64), floor)) / temperature)
    # On one image every NumPy call counts (each costs about as much as a thousand multiply-adds of the model).
    totals = np.add.reduce(raw, axis=-1, keepdims=True)
    if not all(totals.ravel().tolist()):
        # Many classes at eight bits: every probability may have been rounded to zero, which says nothing.
        raw, totals = np.where(totals > 0, raw, 1.0), np.where(totals > 0, totals, raw.shape[-1])
    return np.divide(raw, totals, dtype=np.float32, casting="same_kind")


def entropy(p: np.ndarray) -> np.ndarray:
    """Predictive entropy −Σ p ln p in nats, float64 [N], for probabilities [N, C]."""
    p = np.asarray(p, dtype=np.float64)
    return np.maximum(0.0, -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))


def prediction_set(p: np.ndarray, quantile: float) -> np.ndarray:
    """Which classes belong to the conformal set: those with 1 − p ≤ quantile.

    The least-ambiguous-set score of Sadinle, Lei and Wasserman (2019, https://arxiv.org/abs/1609.00451).

    Args:
        p: probabilities [N, C].
        quantile: of the scores 1 − p(true class) on a calibration split, in [0, 1].

    Returns:
        bool [N, C]; a row may be empty (nothing is plausible) or hold every class.
    """
    return 1.0 - np.asarray(p, dtype=np.float64) <= quantile


def abstains(p: np.ndarray, threshold: float) -> np.ndarray:
    """bool [N]: True where the largest of the probabilities [N, C] is below ``threshold``."""
    return np.asarray(p, dtype=np.float64).max(axis=-1) < threshold


def decide(
    p: np.ndarray,
    labels: Sequence[str],
    *,
    conformal_quantile: float | None = None,
    abstain_threshold: float | None = None,
) -> list[Prediction]:
    """One ``Prediction`` per row of the probabilities [N, C]; ties go to the earlier label."""
    uncertainty = entropy(p)
    sets = prediction_set(p, conformal_quantile) if conformal_quantile is not None else None
    abstained = abstains(p, abstain_threshold) if abstain_threshold is not None else None
    return [
        Prediction(
            label=labels[int(np.argmax(row))],
            probabilities={label: float(value) for label, value in zip(labels, row)},
            entropy=float(uncertainty[i]),
            prediction_set=None if sets is None else _members(row, sets[i], labels),
            abstained=None if abstained is None else bool(abstained[i]),
        )
        for i, row in enumerate(p)
    ]


def _members(row: np.ndarray, inside: np.ndarray, labels: Sequence[str]) -> tuple[str, ...]:
    order = np.argsort(-row, kind="stable")
    return tuple(labels[i] for i in order if inside[i])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)

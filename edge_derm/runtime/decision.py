"""From a model's scores to a decision: temperature, entropy, the class named, conformal set, abstention. Pure NumPy.

``edge_derm.trust`` fits the figures used here on a calibration split; this module only applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np

TIE = 1 - 2.0 ** -(
    2.0**-16
)  # values this near to the largest are equal to it: rounding never decides which class is named
_FLOAT = np.dtype(np.float32)
NEAR = 2.0**-20  # of a total to 1: what the rounding of a softmax in float32 leaves


@dataclass(frozen=True)
class Prediction:
    """One image's answer.

    ``confidence`` is the probability of ``label``; with decision weights another label may be more probable.
    ``probabilities`` by label, in the model's order; ``entropy`` in nats. ``prediction_set``, most probable
    first, is None without a conformal quantile; ``abstained`` is None without an abstain threshold.
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    entropy: float
    prediction_set: tuple[str, ...] | None
    abstained: bool | None


def probabilities(
    raw: np.ndarray,
    *,
    activation: str = "softmax",
    temperature: float | None = None,
    scale: Sequence[float] | None = None,
    shift: Sequence[float] | None = None,
    floor: float = 1e-12,
) -> np.ndarray:
    """Calibrated probabilities from raw model outputs.

    Args:
        raw: float [N, C], probabilities (``softmax``) or ``logits``, dequantised.
        temperature: divides the logits; None or 1 leaves them (Guo et al., 2017,
            https://arxiv.org/abs/1706.04599). Of a model that ends in a softmax the logits are the
            logarithms of its probabilities.
        scale, shift: one value a class: logits / temperature · scale + shift (vector scaling, Guo et al., 2017;
            ``shift`` alone moves the class frequencies, Saerens et al., 2002, doi 10.1162/089976602753284446).
        floor: the least probability whose logarithm is taken; half a step of a quantised output.

    Returns:
        float32 [N, C], rows summing to 1.
    """
    fitted = (temperature is not None and temperature != 1.0) or scale is not None or shift is not None
    if activation == "logits" or fitted:
        scores = raw.astype(np.float64)
        logits = scores if activation == "logits" else np.log(np.maximum(scores, floor))
        return _softmax(rescale(logits, temperature=temperature, scale=scale, shift=shift))
    return normalise(raw)


def normalise(p: np.ndarray) -> np.ndarray:
    """float32 [N, C]: rows of probabilities as they were rounded, made to sum to 1; a row of zeros becomes uniform.

    A row that does so to the precision of float32 stays as it is. Totals are taken in double precision: an image's does not
    depend on how many stand beside it, but for the last bit of a double.
    """
    if len(p) == 1 and p.ndim == 2:  # one image, where every NumPy call counts
        total = sum(p.tolist()[0])
        if total > 0:
            whole = p if abs(total - 1) <= NEAR else p / total
            return whole if whole.dtype == _FLOAT else whole.astype(_FLOAT)
    totals = np.add.reduce(p, axis=-1, keepdims=True, dtype=np.float64)
    if not totals.all():
        # Many classes at eight bits: every probability may have been rounded to zero, which says nothing.
        p, totals = np.where(totals > 0, p, 1.0), np.where(totals > 0, totals, p.shape[-1])
    totals = np.where(np.abs(totals - 1) <= NEAR, 1.0, totals)
    return (p / totals.astype(p.dtype)).astype(np.float32, copy=False)


def rescale(
    logits: np.ndarray,
    *,
    temperature: float | None = None,
    scale: Sequence[float] | None = None,
    shift: Sequence[float] | None = None,
) -> np.ndarray:
    """logits / temperature · scale + shift, float64; what is None changes nothing."""
    z = logits / (temperature or 1.0)
    z = z if scale is None else z * np.asarray(scale)
    return z if shift is None else z + np.asarray(shift)


def entropy(p: np.ndarray) -> np.ndarray:
    """Predictive entropy −Σ p ln p in nats, float64 [N], for probabilities [N, C]."""
    p = np.asarray(p, dtype=np.float64)
    return np.maximum(0.0, -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))


def prediction_set(
    p: np.ndarray,
    quantile: float | Sequence[float],
    *,
    score: str = "lac",
    penalty: float = 0.0,
    free_rank: int = 1,
) -> np.ndarray:
    """Which classes belong to the conformal set: those whose score is at most the quantile.

    Args:
        p: probabilities [N, C].
        quantile: of the scores of the true classes on a calibration split; one number, or one a class.
        score, penalty, free_rank: as for ``set_scores``.

    Returns:
        bool [N, C]; with ``lac`` a row may be empty (nothing is plausible); any row may hold every class.
    """
    return set_scores(p, score=score, penalty=penalty, free_rank=free_rank) <= np.asarray(quantile)


def set_scores(p: np.ndarray, *, score: str = "lac", penalty: float = 0.0, free_rank: int = 1) -> np.ndarray:
    """How badly each class fits, float64 [N, C]; 0 fits best.

    ``lac``: 1 − p (Sadinle, Lei and Wasserman, 2019, https://arxiv.org/abs/1609.00451). ``aps``: the probability of
    the classes ranked above it plus half its own (Romano, Sesia and Candès, 2020, https://arxiv.org/abs/2006.02544;
    the half stands for their random share, so that a set can be repeated: ours). ``raps``: that plus ``penalty`` for each
    rank past ``free_rank`` (Angelopoulos et al., 2021, https://arxiv.org/abs/2009.14193). Ties go to the earlier class.
    """
    p = np.asarray(p, dtype=np.float64)
    if score == "lac":
        return 1.0 - p
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1)
    values = ranked.cumsum(axis=-1) - ranked / 2
    if score == "raps":
        values = values + penalty * np.maximum(0, np.arange(1, p.shape[-1] + 1) - free_rank)
    out = np.empty_like(p)
    np.put_along_axis(out, order, values, axis=-1)
    return out


def named(p: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """int64 [N]: the class that is named: the largest of weight · probability [N, C], the earlier one of equals.

    Args:
        weights: one a class, above 0; None names the most probable class.
    """
    if weights is None:
        return np.asarray(p).argmax(axis=-1)
    values = np.asarray(p, np.float64) * np.asarray(weights)
    return np.asarray((values >= (1 - TIE) * values.max(axis=-1, keepdims=True)).argmax(axis=-1))


def confidences(p: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float64 [N]: the probability of each image's class, from probabilities [N, C] and int64 [N]."""
    return np.take_along_axis(np.asarray(p, np.float64), np.asarray(classes)[:, None], axis=1)[:, 0]


def decide(
    p: np.ndarray,
    labels: Sequence[str],
    *,
    conformal_quantile: float | Sequence[float] | None = None,
    abstain_threshold: float | None = None,
    score: str = "lac",
    penalty: float = 0.0,
    free_rank: int = 1,
    weights: Sequence[float] | None = None,
) -> list[Prediction]:
    """One ``Prediction`` per row of the probabilities [N, C]; ties go to the earlier label.

    It abstains where the label named is less probable than the threshold. ``weights``: as for ``named``.
    """
    uncertainty = entropy(p)
    chosen = named(p, weights)
    confidence = confidences(p, chosen)
    sets = None
    if conformal_quantile is not None:
        sets = prediction_set(p, conformal_quantile, score=score, penalty=penalty, free_rank=free_rank)
    abstained = None if abstain_threshold is None else confidence < abstain_threshold
    return [
        Prediction(
            label=labels[int(chosen[i])],
            confidence=float(confidence[i]),
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

"""Everything ``calibrate`` fits, and what it is worth on images it was not fitted on. Arrays in, plain records out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from edge_derm.runtime.decision import prediction_set, set_scores
from edge_derm.trust import calibration, fitting, scaling
from edge_derm.trust.evaluate import balanced
from edge_derm.trust.intervals import proportion
from edge_derm.trust.scaling import Scaling

PENALTY, FREE_RANK = 0.1, 2  # of ``raps``: ours
NOISE_DRAWS = 200


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the way to rescale (``auto`` chooses), the kind of prediction set, and the two promises."""

    method: str = "auto"
    score: str = "lac"
    by_class: bool = False
    miscoverage: float = 0.1
    risk: float = 0.1
    doubt: float | None = 0.1

    @property
    def sets(self) -> dict[str, Any]:
        """The arguments of ``runtime.decision.set_scores``."""
        regularised = self.score == "raps"
        return {
            "score": self.score,
            "penalty": PENALTY if regularised else 0.0,
            "free_rank": FREE_RANK if regularised else 1,
        }


@dataclass(frozen=True)
class Fit:
    """A scaling, and the quantiles and threshold that hold for the probabilities it gives."""

    scaling: Scaling
    quantile: float
    class_quantiles: tuple[float, ...] | None
    threshold: float | None


def fit(logits: np.ndarray, targets: np.ndarray, method: str, wanted: Wanted) -> Fit:
    """Fit all of it on these images.

    Args:
        logits: float [N, C]. targets: int64 [N].
    """
    scaled = scaling.fit(logits, targets, method)
    p = np.exp(scaled.apply(logits))
    scores = set_scores(p, **wanted.sets)[np.arange(len(targets)), targets]
    limits = {
        "miscoverage": wanted.miscoverage,
        "everything": 1.0 + wanted.sets["penalty"] * p.shape[1],
    }
    return Fit(
        scaled,
        max(0.0, fitting.quantile(scores, **limits)),
        fitting.fit_class_quantiles(scores, targets, p.shape[1], **limits) if wanted.by_class else None,
        fitting.fit_abstain(p.max(axis=1), p.argmax(axis=1) == targets, risk=wanted.risk, doubt=wanted.doubt),
    )


def calibrate(
    logits: np.ndarray,
    p_before: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str],
    wanted: Wanted,
    *,
    labels: Sequence[str],
    seed: int = 0,
) -> tuple[Fit, dict[str, Any]]:
    """The fit on every image, and the record of what cross-fitting says about it.

    Args:
        logits, p_before: float [N, C]: what is rescaled, and the probabilities of the model as it is.
        groups: lesion or patient of each image; none is on both sides of a fold.

    Raises:
        DataError: ``calibration-too-small``.
    """
    parts = fitting.folds(groups, seed=seed)
    method = scaling.choose(logits, targets, parts) if wanted.method == "auto" else wanted.method
    whole = fit(logits, targets, method, wanted)
    p = np.empty(logits.shape, np.float64)
    inside, kept = np.empty(logits.shape, bool), np.empty(len(targets), bool)
    for part in parts:
        rest = np.setdiff1d(np.arange(len(targets)), part)
        fitted = fit(logits[rest], targets[rest], method, wanted)
        p[part] = np.exp(fitted.scaling.apply(logits[part]))
        bound = fitted.class_quantiles or fitted.quantile
        inside[part] = prediction_set(p[part], bound, **wanted.sets)
        kept[part] = p[part].max(axis=1) >= (0.0 if fitted.threshold is None else fitted.threshold)
    return whole, {
        "scaling": method,
        "folds": len(parts),
        **_figures(p, p_before, targets, seed),
        **_sets(inside, targets, labels),
        "selective": None if whole.threshold is None else _selective(p, targets, kept),
    }


def _figures(p: np.ndarray, before: np.ndarray, targets: np.ndarray, seed: int) -> dict[str, Any]:
    """Calibration error, likelihood and decisions, before and after."""
    figures: dict[str, Any] = {}
    for name, values in (("before", before), ("after", p)):
        decided = values.argmax(axis=1)
        figures[f"ece_{name}"] = calibration.ece(values.max(axis=1), decided == targets)
        figures[f"nll_{name}"] = calibration.nll(values, targets)
        figures[f"accuracy_{name}"] = float((decided == targets).mean())
        figures[f"balanced_accuracy_{name}"] = balanced(decided, targets)
    figures["decisions_changed"] = float((p.argmax(axis=1) != before.argmax(axis=1)).mean())
    figures["ece_noise"] = noise(p.max(axis=1), seed=seed)
    return figures


def noise(confidence: np.ndarray, *, seed: int = 0) -> float:
    """The calibration error that a perfectly calibrated model with these confidences would show, on average.

    The binned estimate is never 0 on few images: a figure near this one is no evidence of miscalibration.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        calibration.ece(confidence, rng.random(len(confidence)) < confidence) for _ in range(NOISE_DRAWS)
    ]
    return float(np.mean(drawn))


def _sets(inside: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    covered = inside[np.arange(len(targets)), targets]
    sizes = inside.sum(axis=1)
    return {
        "coverage": proportion(int(covered.sum()), len(targets)),
        "class_coverage": {
            label: proportion(int(covered[targets == c].sum()), int((targets == c).sum()))
            for c, label in enumerate(labels)
        },
        "mean_set_size": float(sizes.mean()),
        "set_sizes": np.bincount(sizes, minlength=inside.shape[1] + 1).tolist(),
    }


def _selective(p: np.ndarray, targets: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    wrong = p.argmax(axis=1) != targets
    return {
        "answered": proportion(int(kept.sum()), len(kept)),
        "risk": proportion(int(wrong[kept].sum()), int(kept.sum())),
        "risk_of_all": proportion(int(wrong.sum()), len(kept)),
    }

"""Everything ``calibrate`` fits, and what it is worth on images it was not fitted on. Arrays in, plain records out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from edge_derm.runtime.decision import confidences, named, prediction_set, set_scores
from edge_derm.trust import calibration, fitting, scaling
from edge_derm.trust.evaluate import balanced
from edge_derm.trust.intervals import proportion
from edge_derm.trust.scaling import Scaling

PENALTY, FREE_RANK = 0.1, 2  # of ``raps``: ours
SPLITS = 20


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the way to rescale (``auto`` chooses), the kind of prediction set, and the two promises.

    ``move``: the most probable class is named, not the model's own answer; ``vector`` cannot do otherwise.
    """

    method: str = "auto"
    score: str = "lac"
    by_class: bool = False
    miscoverage: float = 0.1
    risk: float = 0.1
    doubt: float | None = 0.1
    move: bool = False

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
    """A scaling, and the weights, quantiles and threshold that hold for the probabilities it gives."""

    scaling: Scaling
    weights: tuple[float, ...] | None
    quantile: float
    class_quantiles: tuple[float, ...] | None
    threshold: float | None


def fit(logits: np.ndarray, targets: np.ndarray, method: str, wanted: Wanted) -> Fit:
    """Fit all of it on these images.

    Args:
        logits: float [N, C]. targets: int64 [N].
    """
    scaled = scaling.fit(logits, targets, method)
    weights = None if wanted.move or method not in scaling.KEEPING else scaled.weights
    p = np.exp(scaled.apply(logits))
    chosen = named(p, weights)
    scores = set_scores(p, **wanted.sets)[np.arange(len(targets)), targets]
    limits = {
        "miscoverage": wanted.miscoverage,
        "everything": 1.0 + wanted.sets["penalty"] * p.shape[1],
    }
    return Fit(
        scaled,
        weights,
        max(0.0, fitting.quantile(scores, **limits)),
        fitting.fit_class_quantiles(scores, targets, p.shape[1], **limits) if wanted.by_class else None,
        fitting.fit_abstain(confidences(p, chosen), chosen == targets, risk=wanted.risk, doubt=wanted.doubt),
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
    """The fit on every image, and the record of what cross-fitting and repeated splits say about it.

    Args:
        logits, p_before: float [N, C]: what is rescaled, and the probabilities of the model as it is.
        groups: lesion or patient of each image; none is on both sides of a fold.

    Raises:
        DataError: ``calibration-too-small``.
    """
    parts = fitting.folds(groups, seed=seed)
    method = scaling.choose(logits, targets, parts) if wanted.method == "auto" else wanted.method
    whole = fit(logits, targets, method, wanted)
    p, chosen = np.empty(logits.shape, np.float64), np.empty(len(targets), np.int64)
    inside, kept = np.empty(logits.shape, bool), np.empty(len(targets), bool)
    for part in parts:
        rest = np.setdiff1d(np.arange(len(targets)), part)
        fitted = fit(logits[rest], targets[rest], method, wanted)
        p[part], inside[part] = _apply(fitted, logits[part], wanted)
        chosen[part] = named(p[part], fitted.weights)
        kept[part] = confidences(p[part], chosen[part]) >= (fitted.threshold or 0.0)
    return whole, {
        "scaling": method,
        "named": "most probable" if whole.weights is None else "the model's own",
        "folds": len(parts),
        **_figures(p, chosen, p_before, targets, labels, seed),
        **_sets(inside, targets, labels),
        "coverage_splits": coverage_splits(logits, targets, groups, method, wanted, seed=seed),
        "selective": None if whole.threshold is None else _selective(chosen, targets, kept),
    }


def _apply(fitted: Fit, logits: np.ndarray, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float64 [N, C], and which classes are in the sets, bool [N, C]."""
    p = np.exp(fitted.scaling.apply(logits))
    return p, prediction_set(p, fitted.class_quantiles or fitted.quantile, **wanted.sets)


def coverage_splits(
    logits: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str],
    method: str,
    wanted: Wanted,
    *,
    splits: int = SPLITS,
    seed: int = 0,
) -> dict[str, Any]:
    """What the promise of the sets is worth over random splits into halves of whole lesions, one fitted, the other judged.

    Returns:
        ``mean`` and ``low``, ``high`` (5th and 95th percentiles) of the coverage; ``spread`` its standard deviation, and
        ``expected_spread``, what it would be for independent images: the coverage of a quantile of n images is Beta
        distributed (Vovk 2012, https://arxiv.org/abs/1209.2673), and counted on m others it is binomial around that.
    """
    covered, sizes = [], []
    for number in range(splits):
        first, second = fitting.halves(groups, seed=seed * splits + number)
        fitted = fit(logits[first], targets[first], method, wanted)
        inside = _apply(fitted, logits[second], wanted)[1]
        covered.append(float(inside[np.arange(len(second)), targets[second]].mean()))
        sizes.append((len(first), len(second)))
    low, high = np.percentile(covered, [5, 95])
    both = wanted.miscoverage * (1 - wanted.miscoverage)
    return {
        "splits": splits,
        "mean": float(np.mean(covered)),
        "low": float(low),
        "high": float(high),
        "spread": float(np.std(covered)),
        "expected_spread": float(np.mean([math.sqrt(both * (1 / (n + 2) + 1 / m)) for n, m in sizes])),
    }


def _figures(
    p: np.ndarray,
    chosen: np.ndarray,
    before: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Calibration error, likelihood and decisions, before and after."""
    figures: dict[str, Any] = {}
    recalls = []
    for name, values, decided in (("before", before, before.argmax(axis=1)), ("after", p, chosen)):
        figures[f"ece_{name}"] = calibration.ece(confidences(values, decided), decided == targets)
        figures[f"nll_{name}"] = calibration.nll(values, targets)
        figures[f"accuracy_{name}"] = float((decided == targets).mean())
        figures[f"balanced_accuracy_{name}"] = balanced(decided, targets)
        recalls.append([_recall(decided, targets, c) for c in range(len(labels))])
    figures["sensitivity"] = {
        label: {"before": old, "after": new} for label, old, new in zip(labels, *recalls)
    }
    figures["decisions_changed"] = float((chosen != before.argmax(axis=1)).mean())
    stated = confidences(p, chosen)
    figures["ece_debiased"] = calibration.ece_debiased(stated, chosen == targets)
    figures["ece_noise"] = calibration.noise(stated, seed=seed)
    return figures


def _recall(decided: np.ndarray, targets: np.ndarray, c: int) -> dict[str, Any]:
    of_it = targets == c
    return proportion(int((decided[of_it] == c).sum()), int(of_it.sum()))


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


def _selective(chosen: np.ndarray, targets: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    wrong = chosen != targets
    return {
        "answered": proportion(int(kept.sum()), len(kept)),
        "risk": proportion(int(wrong[kept].sum()), int(kept.sum())),
        "risk_of_all": proportion(int(wrong.sum()), len(kept)),
    }

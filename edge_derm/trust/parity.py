"""The deployed file against its float parent: agreement, accuracy difference, and the gate of a build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Collection, Mapping, Sequence

import numpy as np

from edge_derm.errors import GateError
from edge_derm.runtime.decision import named
from edge_derm.trust import paired
from edge_derm.trust.intervals import proportion, resample

LIMITS = {
    "min_agreement": ("on both kernel families, share of equal decisions", "least"),
    "min_accuracy": ("of the deployed file", "least"),
    "max_accuracy_drop": ("float minus deployed", "most"),
    "max_abs_probability_error": ("largest difference of a probability", "most"),
    "max_accuracy_drop_bound": ("upper end of the drop's 95 % interval", "most"),
    "max_balanced_accuracy_drop": ("float minus deployed", "most"),
    "max_sensitivity_drop": ("of the class that loses most", "most"),
    "max_auroc_drop": ("of the class that loses most", "most"),
    "max_ece_rise": ("deployed minus float", "most"),
    "max_nll_rise": ("deployed minus float, nats", "most"),
}


def compare(
    deployed: Mapping[str, np.ndarray],
    parent: np.ndarray | None,
    targets: np.ndarray,
    *,
    groups: Sequence[str],
    labels: Sequence[str] | None = None,
    name: paired.Named = named,
) -> dict[str, Any]:
    """Figures of parity; with ``labels`` every metric twice (``metrics``, of the XNNPACK kernels).

    Args:
        deployed: probabilities [N, C] by kernel family (``xnnpack``, ``reference``).
        parent: float probabilities [N, C]; None leaves its figures None.
        name: which class is named for each row of probabilities, of both.
    """
    answers = {kernels: name(p) for kernels, p in deployed.items()}
    correct = {kernels: answer == targets for kernels, answer in answers.items()}
    record: dict[str, Any] = {
        "accuracy_deployed": float(correct["xnnpack"].mean()),
        "accuracy_deployed_by_kernels": {kernels: float(hits.mean()) for kernels, hits in correct.items()},
        "agreement_between_kernels": float((answers["xnnpack"] == answers["reference"]).mean()),
        "accuracy_float": None,
        "agreement": {"xnnpack": None, "reference": None},
        "agreement_intervals": None,
        "accuracy_difference": None,
        "max_abs_probability_error": None,
        "disagreements": None,
        "metrics": None,
    }
    if parent is None:
        return record
    decided = name(parent)
    right = decided == targets
    same = {kernels: answer == decided for kernels, answer in answers.items()}
    gain = correct["xnnpack"].astype(np.float64) - right
    return {
        **record,
        "accuracy_float": float(right.mean()),
        "agreement": {kernels: float(values.mean()) for kernels, values in same.items()},
        "agreement_intervals": {kernels: proportion(int(v.sum()), len(v)) for kernels, v in same.items()},
        "accuracy_difference": resample(lambda i: float(gain[i].mean()), groups),
        "max_abs_probability_error": float(max(np.abs(p - parent).max() for p in deployed.values())),
        "disagreements": {kernels: np.flatnonzero(~values).tolist() for kernels, values in same.items()},
        "metrics": (
            None
            if labels is None
            else paired.compare_metrics(
                parent, deployed["xnnpack"], targets, labels, groups=groups, name=name
            )
        ),
    }


def read_gate(path: Path, *, known: Collection[str] = tuple(LIMITS)) -> dict[str, float]:
    """Limits from a TOML file, e.g. ``min_agreement = 0.985``; ``known`` are the names it may hold.

    Raises:
        GateError: ``gate-missing``, ``gate-broken``, ``gate-unknown``, ``gate-value``, ``gate-empty``.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if not path.is_file():
        raise GateError(f"{path}: expected a TOML file of limits, found no such file", code="gate-missing")
    try:
        limits = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GateError(f"{path}: expected TOML, got {error}", code="gate-broken") from error
    for name, value in limits.items():
        if name not in known:
            raise GateError(
                f"{path}: expected limits out of {', '.join(known)}, got {name!r}", code="gate-unknown"
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise GateError(f"{path}: {name}: expected a number, got {value!r}", code="gate-value")
    if not limits:
        raise GateError(
            f"{path}: expected at least one limit out of {', '.join(known)}, got none", code="gate-empty"
        )
    return limits


def check_gate(record: Mapping[str, Any], limits: Mapping[str, float]) -> GateError | None:
    """The error that names every limit the record breaks, or None; a figure that is not there breaks its limit."""
    agreements = list(record["agreement"].values())
    drop = (
        None if record["accuracy_float"] is None else record["accuracy_float"] - record["accuracy_deployed"]
    )
    metrics = record.get("metrics") or {}
    accuracy = metrics.get("accuracy", {}).get("difference", {}).get("low")
    measured = {
        "max_accuracy_drop_bound": None if accuracy is None else -accuracy,
        "max_balanced_accuracy_drop": paired.worst(metrics, "balanced_accuracy"),
        "max_sensitivity_drop": paired.worst(metrics, "sensitivity"),
        "max_auroc_drop": paired.worst(metrics, "auroc"),
        "max_ece_rise": paired.worst(metrics, "ece", falling=False),
        "max_nll_rise": paired.worst(metrics, "nll", falling=False),
        "min_agreement": None if None in agreements else min(agreements),
        "min_accuracy": record["accuracy_deployed"],
        "max_accuracy_drop": drop,
        "max_abs_probability_error": record["max_abs_probability_error"],
    }
    broken = []
    for name, limit in limits.items():
        value, side = measured[name], LIMITS[name][1]
        if value is None:
            broken.append(f"{name}: not measured (give --against the float parent)")
        elif value < limit if side == "least" else value > limit:
            broken.append(f"{name}: expected at {side} {limit:g}, got {value:.4g}")
    return GateError("gate failed: " + "; ".join(broken), code="gate-failed") if broken else None

"""The steps that judge a bundle and fit what it needs to judge itself; as ``steps``, each returns its command's record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .bundle import Bundle, Calibration, open_bundle, update_bundle
from .runtime import Classifier
from .selection import Selection, recorded_parts, select


def calibrate(
    path: Path,
    *,
    data: str,
    miscoverage: float = 0.1,
    risk: float = 0.1,
    doubt: float = 0.1,
    scaling: str = "auto",
    score: str = "lac",
    by_class: bool = False,
    move_decisions: bool = False,
    part: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Fit on the validation part (everything, for other data) and write the manifest.

    Every figure of the record is cross-fitted: each image is judged by what was fitted on the folds it is not in.

    Args:
        move_decisions: name the most probable class, not the network's own answer (with ``vector`` always so).
    """
    from .trust import calibrating

    bundle = open_bundle(path)
    wanted = calibrating.Wanted(scaling, score, by_class, miscoverage, risk, doubt or None, move_decisions)
    chosen = calibration_images(bundle, data, part)
    classifier = Classifier.open(bundle)
    raw = classifier.raw(chosen.pixels(bundle.manifest.input.size_px))
    fit, figures = calibrating.calibrate(
        classifier.logits(raw),
        classifier.temper(raw, None),
        chosen.targets(bundle.manifest.labels),
        chosen.groups,
        wanted,
        labels=bundle.manifest.labels,
        seed=seed,
    )
    fitted = {
        "temperature": fit.scaling.temperature,
        "conformal_quantile": fit.quantile,
        "abstain_threshold": fit.threshold,
    }
    rest = Calibration(
        fit.scaling.scale,
        fit.scaling.shift,
        class_quantiles=fit.class_quantiles,
        weights=fit.weights,
        **wanted.sets,
    )
    signed = (bundle.path / "signature.json").exists()
    update_bundle(bundle, **fitted, calibration=None if rest == Calibration() else rest)
    return {
        "record": "calibrate",
        "bundle": str(path),
        "part": chosen.part,
        "images": {"fit": len(raw), "check": len(raw)},
        "miscoverage": miscoverage,
        "risk": risk,
        "doubt": doubt,
        "score": score,
        "signature_removed": signed,
        **fitted,
        "class_quantiles": fit.class_quantiles,
        "scale": fit.scaling.scale,
        "shift": fit.scaling.shift,
        "weights": fit.weights,
        **figures,
    }


def calibration_images(bundle: Bundle, data: str, part: str) -> Selection:
    """The part to fit on: never the one that the model is to be judged on at last."""
    dataset = select(data).dataset
    if part == "auto":
        part = "validation" if recorded_parts(dataset, bundle.manifest.provenance) else "all"
    return select(
        data,
        part=part,
        provenance=bundle.manifest.provenance,
        labels=bundle.manifest.labels,
        dataset=dataset,
    )

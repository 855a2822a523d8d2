"""The steps that judge a bundle and fit what it needs to judge itself; as ``steps``, each returns its command's record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .bundle import Bundle, Calibration, open_bundle, update_bundle
from .bundle.fields import plain
from .bundle.manifest import loads
from .errors import BundleError, DataError
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
    dry_run: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit on the validation part (everything, for other data) and write the manifest (not with ``dry_run``).

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
    signed = not dry_run and (bundle.path / "signature.json").exists()
    if not dry_run:
        update_bundle(bundle, **fitted, calibration=None if rest == Calibration() else rest)
    return {
        "record": "calibrate",
        "bundle": str(path),
        "model_sha256": bundle.manifest.files["model.tflite"].sha256,
        "dry_run": dry_run,
        "calibration": plain(rest),
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


def accept(path: Path, *, record: Path) -> dict[str, Any]:
    """Write what ``calibrate(dry_run=True)`` fitted elsewhere (on a board, on images that stay there) into the bundle.

    Raises:
        DataError: ``calibration-record``: not such a record, or of another model. BundleError: of the bundle.
    """
    bundle = open_bundle(path)
    try:
        found = json.loads(record.read_text("utf-8"))
        same = found["model_sha256"] == bundle.manifest.files["model.tflite"].sha256
        names = ("temperature", "conformal_quantile", "abstain_threshold")
        changed = bundle.manifest.updated(**{name: found[name] for name in names})
        text = json.dumps(plain(changed) | {"calibration": found["calibration"]})
        checked = loads(text.encode())
    except (OSError, ValueError, KeyError, TypeError, BundleError) as error:
        raise DataError(
            f"{record}: expected the record of 'edge-derm calibrate --dry-run --json {record.name}', got something else: {error}",
            code="calibration-record",
        ) from error
    if not same:
        raise DataError(
            f"{record}: expected a record of the model in {path}, got one of another model: calibrate with this one",
            code="calibration-record",
        )
    signed = (bundle.path / "signature.json").exists()
    rest = None if checked.calibration == Calibration() else checked.calibration
    update_bundle(bundle, **{name: getattr(checked, name) for name in names}, calibration=rest)
    return {**found, "bundle": str(path), "dry_run": False, "signature_removed": signed}


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

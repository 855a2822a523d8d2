"""The step of ``calibrate``: fits what a bundle needs to judge itself, and writes it into the manifest."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from .bundle import Bundle, Calibration, open_bundle, update_bundle
from .bundle.fields import plain
from .bundle.manifest import loads
from .errors import BundleError, DataError, ModelError
from .runtime import Classifier, known
from .runtime.features import Features
from .selection import Selection, recorded_parts, select
from .trust import calibrating, fitting
from .trust.calibrating import Fit, Wanted

FITTED = ("temperature", "conformal_quantile", "abstain_threshold")  # fields of the manifest


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
    strange: float = 0.05,
    part: str = "auto",
    dry_run: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit on the validation part (everything, for other data) and write the manifest (not with ``dry_run``).

    Every figure of the record is cross-fitted: each image is judged by what was fitted on the folds it is not in.

    Args:
        move_decisions: name the most probable class, not the network's own answer (with ``vector`` always so).
        strange: share of images of the kind it was calibrated on that may be called foreign; 0 leaves that out.
    """
    bundle = open_bundle(path)
    wanted = Wanted(scaling, score, by_class, miscoverage, risk, doubt or None, move_decisions)
    chosen = calibration_images(bundle, data, part)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    fit, figures = fit_to(bundle, chosen, pixels, wanted, seed=seed)
    fitted = dict(zip(FITTED, (fit.scaling.temperature, fit.quantile, fit.threshold)))
    rest = the_rest(fit, wanted)
    stored = remember(bundle, chosen, pixels, strange=strange, seed=seed) if strange else None
    features = b"" if stored is None else stored.dumps()
    signed = not dry_run and write(bundle, fitted, rest, features)
    return {
        "record": "calibrate",
        "bundle": str(path),
        "model_sha256": bundle.manifest.files["model.tflite"].sha256,
        "dry_run": dry_run,
        "calibration": plain(rest),
        "part": chosen.part,
        "images": {"fit": len(pixels), "check": len(pixels)},
        "miscoverage": miscoverage,
        "risk": risk,
        "doubt": doubt,
        "score": score,
        "signature_removed": signed,
        "foreign": None if stored is None else told(stored, strange),
        "known": base64.b64encode(features).decode() if features and dry_run else None,
        **fitted,
        "class_quantiles": fit.class_quantiles,
        "scale": fit.scaling.scale,
        "shift": fit.scaling.shift,
        "weights": fit.weights,
        **figures,
    }


def fit_to(
    bundle: Bundle, chosen: Selection, pixels: np.ndarray, wanted: Wanted, *, seed: int
) -> tuple[Fit, dict[str, Any]]:
    """What the bundle's own scores of these images ask for, and the cross-fitted figures."""
    classifier = Classifier.open(bundle)
    raw = classifier.raw(pixels)
    return calibrating.calibrate(
        classifier.scores.logits(raw),
        classifier.scores.temper(raw, None),
        chosen.targets(bundle.manifest.labels),
        chosen.groups,
        wanted,
        labels=bundle.manifest.labels,
        seed=seed,
    )


def the_rest(fit: Fit, wanted: Wanted) -> Calibration:
    """What was fitted beside the fields ``FITTED``."""
    return Calibration(
        fit.scaling.scale,
        fit.scaling.shift,
        class_quantiles=fit.class_quantiles,
        weights=fit.weights,
        **wanted.sets,
    )


def write(bundle: Bundle, fitted: Mapping[str, Any], rest: Calibration | None, features: bytes) -> bool:
    """Into the manifest, and the known images' features into their part; whether that removed a signature."""
    signed = (bundle.path / "signature.json").exists()
    parts = {"parts": {known.PART: (known.ROLE, features)}} if features else {}
    update_bundle(bundle, **fitted, calibration=None if rest == Calibration() else rest, **parts)
    return signed


def told(stored: known.Known, strange: float) -> dict[str, Any]:
    """Of what the bundle knows, for the record."""
    return {"known_images": len(stored.stored), "threshold": stored.threshold, "share": strange}


def accept(path: Path, *, record: Path) -> dict[str, Any]:
    """Write what ``calibrate(dry_run=True)`` fitted elsewhere (on a board, on images that stay there) into the bundle.

    Raises:
        DataError: ``calibration-record``: not such a record, or of another model. BundleError: of the bundle.
    """
    bundle = open_bundle(path)
    try:
        found = json.loads(record.read_text("utf-8"))
        same = found["model_sha256"] == bundle.manifest.files["model.tflite"].sha256
        changed = bundle.manifest.updated(**{name: found[name] for name in FITTED})
        text = json.dumps(plain(changed) | {"calibration": found["calibration"]})
        checked = loads(text.encode())
        features = base64.b64decode(found.get("known") or "", validate=True)
        if features:
            known.Known.loads(features, str(record))
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
    fitted = {name: getattr(checked, name) for name in FITTED}
    signed = write(bundle, fitted, checked.calibration, features)
    return {**found, "bundle": str(path), "dry_run": False, "signature_removed": signed, "known": None}


def remember(
    bundle: Bundle, chosen: Selection, pixels: np.ndarray, *, strange: float, seed: int
) -> known.Known | None:
    """What the model knows, from images it was trained on (half of the lesions, of other data); the rest sets the threshold.

    None for a model without a classifier layer to take features from.
    """
    try:
        features = Features(bundle)
    except ModelError:
        return None
    own = features.of(pixels)
    trained_on = recorded_parts(chosen.dataset, bundle.manifest.provenance).get("train")
    if trained_on is not None and chosen.part == "validation":
        sample = replace(chosen, indices=trained_on).sample(known.IMAGES, seed=seed)
        bank, judged = features.of(sample.pixels(bundle.manifest.input.size_px)), own
    else:
        first, second = fitting.halves(chosen.groups, seed=seed)
        bank, judged = own[first][: known.IMAGES], own[second]
    stored = known.remember(bank)
    limit = fitting.quantile(stored.distances(judged), miscoverage=strange, everything=2.0)
    return replace(stored, threshold=limit)


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

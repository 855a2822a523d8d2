"""The steps that judge a bundle (``verify``, ``evaluate``) and fit what it needs to judge itself (``calibrate``).

As ``making``'s, each returns its command's record.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, Calibration, open_bundle, update_bundle
from .bundle.fields import plain
from .bundle.manifest import loads
from .data.skin import tone, typology_angles
from .errors import BundleError, DataError, ModelError
from .runtime import Classifier
from .runtime import known
from .runtime.features import Features
from .selection import Selection, recorded_parts, select
from .origin import check_same_labels


def verify(
    path: Path,
    *,
    data: str,
    against: Path | None = None,
    gate: Path | None = None,
    part: str = "auto",
    threads: int = 1,
) -> tuple[dict[str, Any], Exception | None]:
    """The deployed file against its float parent on both kernel families; the record, and the gate's failure."""
    from .trust import parity

    bundle = open_bundle(path)
    limits = parity.read_gate(gate) if gate else None
    chosen = select(data, part=part, provenance=bundle.manifest.provenance, labels=bundle.manifest.labels)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    classifiers = {
        name: Classifier.open(bundle, kernels=kernels, threads=threads)
        for name, kernels in (("xnnpack", "default"), ("reference", "reference"))
    }
    deployed = {name: classifier.predict(pixels) for name, classifier in classifiers.items()}
    parent = None if against is None else parent_probabilities(against, chosen, bundle)
    if parent is not None:
        parent = classifiers["xnnpack"].recalibrated(
            parent
        )  # the same calibration on both sides: parity is the file's
    record = parity.compare(
        deployed,
        parent,
        chosen.targets(bundle.manifest.labels),
        groups=chosen.groups,
        labels=bundle.manifest.labels,
        name=classifiers["xnnpack"].named,
    )
    record = {
        "record": "verify",
        "bundle": str(path),
        "against": None if against is None else str(against),
        "images": len(pixels),
        "part": chosen.part,
        **record,
    }
    failure = None if limits is None else parity.check_gate(record, limits)
    return {**record, "passed": failure is None}, failure


def evaluate(
    path: Path,
    *,
    data: str,
    positive: str | None = None,
    negative: str | None = None,
    readers: Path | None = None,
    reference: bool = False,
    keep: bool = False,
    part: str = "auto",
    backend: str = "litert",
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics with 95 % intervals of a bundle on labelled images.

    Thresholds of operating points are chosen on the validation part where the images judged are another part of the data the
    model was trained on; on the other half of the lesions otherwise.

    Args:
        keep: write the main figures into the bundle, for its model card.
    """
    from .trust import card
    from .trust import evaluate as evaluating

    bundle = open_bundle(path)
    labels = bundle.manifest.labels
    chosen = select(data, part=part, provenance=bundle.manifest.provenance, labels=labels, seed=seed)
    classifier = Classifier.open(bundle, backend=backend, threads=threads)
    pixels = chosen.pixels(classifier.size_px)
    tones = [tone(angle) for angle in typology_angles(pixels)]
    p, targets = classifier.predict(pixels), chosen.targets(labels)
    decided, called = classifier.decide(p), classifier.named(p)
    figures = evaluating.evaluate(
        p,
        targets,
        labels,
        groups=chosen.groups,
        meta=[{**row, "skin_tone": seen} for row, seen in zip(chosen.meta, tones)],
        image_ids=chosen.image_ids,
        positive=positive,
        negative=negative,
        readers=readers,
        chooser=validation_scores(classifier, chosen) if positive is not None else None,
        reference=reference,
        decided=called,
        seed=seed,
    )
    record = {
        "record": "evaluate",
        "bundle": str(path),
        "images": len(pixels),
        "part": chosen.part,
        **figures,
        **evaluating.kept_promises(
            [row.prediction_set for row in decided],
            [row.abstained for row in decided],
            called,
            targets,
            labels,
            groups=chosen.groups,
            seed=seed,
        ),
    }
    if keep:
        told = card.summary(record, data=chosen.dataset.name)
        update_bundle(bundle, metrics={**bundle.manifest.metrics, "evaluation": told})
    return record


def validation_scores(classifier: Classifier, chosen: Selection) -> tuple[np.ndarray, np.ndarray] | None:
    """Probabilities and targets of the validation part, to choose thresholds on; None where it is not apart from ``chosen``."""
    parts = recorded_parts(chosen.dataset, classifier.manifest.provenance)
    if chosen.part not in ("test", "train") or "validation" not in parts:
        return None
    other = replace(chosen, indices=parts["validation"], part="validation")
    pixels = other.pixels(classifier.size_px)
    return classifier.predict(pixels), other.targets(classifier.labels)


def parent_probabilities(against: Path, chosen: Selection, bundle: Bundle) -> np.ndarray:
    """Float probabilities [N, C] of the parent, a run folder or another bundle, on the same images, uncalibrated."""
    if (against / "manifest.json").is_file():
        parent = Classifier.open(against)
        check_same_labels(parent.labels, bundle.manifest.labels, against)
        return parent.temper(parent.raw(chosen.pixels(parent.size_px)), None)
    from .modeling import runs, scoring

    model, run = runs.load(against)
    if run:
        check_same_labels(tuple(run["classes"]), bundle.manifest.labels, against)
    return scoring.probabilities(model, chosen.pixels(int(model.input_shape[1])))


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
    from .trust import calibrating

    bundle = open_bundle(path)
    wanted = calibrating.Wanted(scaling, score, by_class, miscoverage, risk, doubt or None, move_decisions)
    chosen = calibration_images(bundle, data, part)
    classifier = Classifier.open(bundle)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    raw = classifier.raw(pixels)
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
    stored = remember(bundle, chosen, pixels, strange=strange, seed=seed) if strange else None
    if not dry_run:
        parts = {} if stored is None else {"parts": {known.PART: (known.ROLE, stored.dumps())}}
        update_bundle(bundle, **fitted, calibration=None if rest == Calibration() else rest, **parts)
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
        "foreign": (
            None
            if stored is None
            else {"known_images": len(stored.stored), "threshold": stored.threshold, "share": strange}
        ),
        "known": None if stored is None or not dry_run else base64.b64encode(stored.dumps()).decode(),
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
    signed = (bundle.path / "signature.json").exists()
    rest = None if checked.calibration == Calibration() else checked.calibration
    parts = {"parts": {known.PART: (known.ROLE, features)}} if features else {}
    update_bundle(bundle, **{name: getattr(checked, name) for name in names}, calibration=rest, **parts)
    return {**found, "bundle": str(path), "dry_run": False, "signature_removed": signed, "known": None}


def remember(
    bundle: Bundle, chosen: Selection, pixels: np.ndarray, *, strange: float, seed: int
) -> known.Known | None:
    """What the model knows, from images it was trained on (half of the lesions, of other data); the rest sets the threshold.

    None for a model without a classifier layer to take features from.
    """
    from .trust import fitting

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

"""The steps that judge a bundle (``verify``, ``evaluate``); as ``making``'s, each returns its command's record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, open_bundle, update_bundle
from .data.skin import tone, typology_angles
from .runtime import Classifier
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
        parent = classifiers["xnnpack"].scores.recalibrated(
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
        return parent.scores.temper(parent.raw(chosen.pixels(parent.size_px)), None)
    from .modeling import runs, scoring

    model, run = runs.load(against)
    if run:
        check_same_labels(tuple(run["classes"]), bundle.manifest.labels, against)
    return scoring.probabilities(model, chosen.pixels(int(model.input_shape[1])))

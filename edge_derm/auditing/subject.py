"""The model under audit: a differentiable float parent, and the places where its deployed file answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from .. import making, origin
from ..bundle import Bundle, Provenance, open_bundle
from ..runtime import Classifier
from ..trust import audit as figures

TWIN = "twin"  # where a bundle without its parent is differentiated
KERNELS = {"xnnpack": "default", "reference": "reference"}


@dataclass(frozen=True)
class Subject:
    """What is audited: a differentiable float parent and the places where answers are taken."""

    parent: Any  # modeling.gradients.Twofold
    labels: tuple[str, ...]
    size_px: int
    provenance: Provenance
    places: dict[str, figures.Answer]


def open_subject(path: Path, against: Path | None, data: str, seed: int) -> Subject:
    """The model under audit, from a run, from a bundle and its parent, or from a bundle alone (a twin of its file)."""
    bundle = open_bundle(path) if (path / "manifest.json").is_file() else None
    if bundle is not None and against is None:
        return alone(bundle)
    from ..modeling import runs
    from ..modeling.gradients import Differentiable

    source = path if bundle is None else against
    assert source is not None
    model, run = runs.load(source)
    parent = Differentiable(model)
    if bundle is None:
        labels = (
            tuple(run["classes"]) if run else making.read_labels(None, why=f"{source} does not carry them")
        )
        provenance = origin.provenance_of(source, run)
    else:
        labels, provenance = bundle.manifest.labels, bundle.manifest.provenance
        if run:
            origin.check_same_labels(tuple(run["classes"]), labels, source)
    places: dict[str, figures.Answer] = {"keras": lambda pixels: parent.predict(pixels).argmax(axis=1)}
    places.update(deployed(bundle) if bundle else exported(model, source, run, data, labels, seed))
    return Subject(parent, labels, parent.size_px, provenance, places)


def alone(bundle: Bundle) -> Subject:
    """A bundle without its float parent: the gradient is that of a twin made of the file's own weights."""
    from ..modeling.surrogate import Surrogate

    twin = Surrogate(bundle.model, bundle.manifest)
    places: dict[str, figures.Answer] = {TWIN: lambda pixels: twin.predict(pixels).argmax(axis=1)}
    places.update(deployed(bundle))
    return Subject(twin, bundle.manifest.labels, twin.size_px, bundle.manifest.provenance, places)


def deployed(bundle: Bundle) -> dict[str, figures.Answer]:
    """The bundle's file on both kernel families."""
    return {
        f"{bundle.manifest.recipe}-{name}": as_answer(Classifier.open(bundle, kernels=kernels))
        for name, kernels in KERNELS.items()
    }


def exported(
    model: Any, source: Path, run: dict[str, Any], data: str, labels: Sequence[str], seed: int
) -> dict[str, figures.Answer]:
    """The files that ``export`` makes of a model: float32, and int8 on both kernel families."""
    from ..modeling import export as exporting

    size_px = exporting.input_size(model)
    images = making.calibration_images(source, run, None if run else data, size_px, needed=True, seed=seed)
    float_file = exporting.export(model, recipe="float32").model
    int8_file = exporting.export(model, recipe="int8", io="uint8", calibration=images).model
    places = {"float32-xnnpack": as_answer(Classifier.of(float_file, labels))}
    for name, kernels in KERNELS.items():
        places[f"int8-{name}"] = as_answer(Classifier.of(int8_file, labels, kernels=kernels))
    return places


def as_answer(classifier: Classifier) -> figures.Answer:
    """What a deployed file says to real-valued pixels: a camera delivers them rounded to 8 bits."""
    return lambda pixels: classifier.named(classifier.predict(np.rint(pixels).astype(np.uint8)))


def deployed_place(subject: Subject) -> str:
    """Where the file runs on a board: int8 under XNNPACK, or whatever comes nearest to it."""
    fast = [name for name in subject.places if name.endswith("-xnnpack")]
    return fast[-1]

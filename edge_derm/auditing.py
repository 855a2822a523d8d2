"""``audit``: the float model's gradient, the deployed file's answers and ``trust.audit``, introduced to one another."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from . import steps
from .bundle import Bundle, Provenance, open_bundle
from .errors import DataError, ModelError
from .runtime import Classifier
from .selection import Selection, select
from .trust import attack
from .trust import audit as figures

KERNELS = {"xnnpack": "default", "reference": "reference"}


@dataclass(frozen=True)
class Subject:
    """What is audited: a differentiable float parent and the places where answers are taken."""

    parent: Any  # modeling.gradients.Differentiable
    labels: tuple[str, ...]
    size_px: int
    provenance: Provenance
    places: dict[str, figures.Answer]


def audit(
    path: Path,
    *,
    data: str,
    proxy: str | None = None,
    against: Path | None = None,
    target_classes: Sequence[str] = (),
    norms: Sequence[float] = (2, math.inf),
    zeta: float = 0.04,
    images: int = 1000,
    crafting: int = 1000,
    passes: int = 5,
    batch: int = 64,
    draws: int = 5,
    part: str = "auto",
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Craft universal perturbations and replay them wherever the model runs.

    Args:
        path: a run folder (its int8 file is made here) or a bundle, whose float parent is then ``against``.
        proxy: images of anything else, for what an attacker can do who never saw the medical data.
        target_classes: one targeted perturbation each, beside the non-targeted one.
        images, crafting: at most so many to judge on and to craft from.
        draws: of each random control.

    Raises:
        DataError: the data; ``label-unknown``, ``audit-zeta``, and what ``attack.craft`` raises.
        ModelError: ``audit-parent``: a bundle without its float parent.
    """
    if not 0 < zeta < 1:
        raise DataError(f"zeta: expected a share between 0 and 1, got {zeta}", code="audit-zeta")
    subject = open_subject(path, against, data, seed)
    wanted = [None, *(label_index(name, subject.labels) for name in target_classes)]
    judged, sources = choose(subject, data, proxy, part, images, crafting, seed)
    pixels = judged.pixels(subject.size_px)
    radii = {norm: attack.radius_of(pixels, norm=norm, zeta=zeta) for norm in norms}
    crafted: dict[str, list[attack.Perturbation]] = {}
    for source, chosen in sources.items():
        material = chosen.pixels(subject.size_px)
        for norm in norms:
            for target in wanted:
                say(f"crafting: {source}, norm {norm}, target {target}")
                crafted.setdefault(source, []).append(
                    attack.craft(
                        material,
                        predict=subject.parent.predict,
                        gradient=subject.parent.gradient,
                        norm=norm,
                        radius=radii[norm],
                        target=target,
                        passes=passes,
                        batch=batch,
                        seed=seed,
                    )
                )
    controls = {
        kind: [
            attack.control(pixels.shape[1:], norm=norm, radius=radii[norm], kind=kind, seed=seed + i)
            for i in range(draws)
        ]
        for norm in norms
        for kind in attack.controls_of(norm)
    }
    rows = []
    for where, answer in subject.places.items():
        say(f"replaying: {where}")
        rows += figures.compare(
            crafted,
            controls,
            images=pixels,
            targets=judged.targets(subject.labels),
            labels=subject.labels,
            groups=judged.groups,
            zeta=zeta,
            where=where,
            answer=answer,
            seed=seed,
        )
    return {
        "record": "audit",
        "model": str(path),
        "against": None if against is None else str(against),
        "images": len(pixels),
        "part": judged.part,
        "seed": seed,
        "settings": {"zeta": zeta, "passes": passes, "batch": batch, "draws": draws},
        "sources": {
            name: {"data": chosen.dataset.name, "images": len(chosen.indices)}
            for name, chosen in sources.items()
        },
        "rows": rows,
        "command": steps.command_line(),
    }


def open_subject(path: Path, against: Path | None, data: str, seed: int) -> Subject:
    """The model under audit, from a run or from a bundle and its parent."""
    from .modeling import runs
    from .modeling.gradients import Differentiable

    bundle = open_bundle(path) if (path / "manifest.json").is_file() else None
    if bundle is not None and against is None:
        raise ModelError(
            f"{path}: expected the float parent of the bundle, whose gradient the perturbations follow, got none: "
            "give --against RUN, or audit the run itself",
            code="audit-parent",
        )
    source = path if bundle is None else against
    assert source is not None
    model, run = runs.load(source)
    parent = Differentiable(model)
    if bundle is None:
        labels = (
            tuple(run["classes"]) if run else steps.read_labels(None, why=f"{source} does not carry them")
        )
        provenance = steps.provenance_of(source, run)
    else:
        labels, provenance = bundle.manifest.labels, bundle.manifest.provenance
        if run:
            steps.check_same_labels(tuple(run["classes"]), labels, source)
    places: dict[str, figures.Answer] = {"keras": lambda pixels: parent.predict(pixels).argmax(axis=1)}
    places.update(deployed(bundle) if bundle else exported(model, source, run, data, labels, seed))
    return Subject(parent, labels, parent.size_px, provenance, places)


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
    from .modeling import export as exporting

    size_px = exporting.input_size(model)
    images = steps.calibration_images(source, run, None if run else data, size_px, needed=True, seed=seed)
    float_file = exporting.export(model, recipe="float32").model
    int8_file = exporting.export(model, recipe="int8", io="uint8", calibration=images).model
    places = {"float32-xnnpack": as_answer(Classifier.of(float_file, labels))}
    for name, kernels in KERNELS.items():
        places[f"int8-{name}"] = as_answer(Classifier.of(int8_file, labels, kernels=kernels))
    return places


def as_answer(classifier: Classifier) -> figures.Answer:
    """What a deployed file says to real-valued pixels: a camera delivers them rounded to 8 bits."""
    return lambda pixels: classifier.predict(np.rint(pixels).astype(np.uint8)).argmax(axis=1)


def choose(
    subject: Subject, data: str, proxy: str | None, part: str, images: int, crafting: int, seed: int
) -> tuple[Selection, dict[str, Selection]]:
    """Images to judge on, and to craft from by source: never the same ones."""
    judged = select(data, part=part, provenance=subject.provenance, labels=subject.labels)
    if judged.part == "all":
        judged, material = halves(judged, seed)
    else:
        material = select(
            data, part="train", provenance=subject.provenance, labels=subject.labels, dataset=judged.dataset
        )
    sources = {"training": material.sample(crafting, seed=seed)}
    if proxy is not None:
        sources["natural"] = select(proxy).sample(crafting, seed=seed)
    return judged.sample(images, seed=seed), sources


def halves(chosen: Selection, seed: int) -> tuple[Selection, Selection]:
    """Two halves of data the model was not trained on, lesions whole."""
    from .trust import fitting

    first, second = fitting.halves(chosen.groups, seed=seed)
    return (
        Selection(chosen.dataset, chosen.indices[first], "half"),
        Selection(chosen.dataset, chosen.indices[second], "other half"),
    )


def label_index(name: str, labels: Sequence[str]) -> int:
    """Index of a class."""
    if name not in labels:
        raise DataError(
            f"--target-class: expected one of {', '.join(labels)}, got {name!r}", code="label-unknown"
        )
    return list(labels).index(name)


def tell(text: str) -> None:
    """Progress at a terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)

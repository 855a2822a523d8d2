"""The images an audit judges on and crafts from, and the perturbations made of them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from .. import files
from ..errors import DataError
from ..selection import Selection, select
from ..trust import attack, detector, fitting
from ..trust import audit as figures
from .subject import Subject


@dataclass(frozen=True)
class Material:
    """Images to judge on and to craft from, and the perturbations made of them."""

    judged: Selection
    images: np.ndarray  # uint8 [N, S, S, 3], those judged on
    targets: np.ndarray  # their true labels: for accuracies only
    sources: dict[str, np.ndarray]  # what perturbations are crafted from, by source
    radii: dict[float, float]  # ξ by norm
    crafted: dict[str, list[attack.Perturbation]]
    controls: dict[str, list[attack.Perturbation]]  # by kind


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
    first, second = fitting.halves(chosen.groups, seed=seed)
    return (
        Selection(chosen.dataset, chosen.indices[first], "half"),
        Selection(chosen.dataset, chosen.indices[second], "other half"),
    )


def gather(
    subject: Subject,
    judged: Selection,
    sources: dict[str, Selection],
    norms: Sequence[float],
    zeta: float,
    draws: int,
    seed: int,
) -> Material:
    """Pixels, radii and random controls; nothing crafted yet."""
    images = judged.pixels(subject.size_px)
    radii = {norm: attack.radius_of(images, norm=norm, zeta=zeta) for norm in norms}
    controls = {
        kind: [
            attack.control(images.shape[1:], norm=norm, radius=radii[norm], kind=kind, seed=seed + i)
            for i in range(draws)
        ]
        for norm in norms
        for kind in attack.controls_of(norm)
    }
    pixels = {source: chosen.pixels(subject.size_px) for source, chosen in sources.items()}
    targets = judged.targets(subject.labels)
    return Material(judged, images, targets, pixels, radii, {source: [] for source in sources}, controls)


def craft(
    subject: Subject,
    material: Material,
    source: str,
    norm: float,
    target: int | None,
    *,
    aim: bool = True,
    **choices: Any,
) -> attack.Perturbation:
    """One perturbation from the images of one source; without a target it may be made towards a class, unless ``aim`` is off."""
    made = partial(
        attack.craft if target is not None or not aim else attack.craft_any,
        material.sources[source],
        predict=subject.parent.predict,
        gradient=subject.parent.gradient,
        norm=norm,
        radius=material.radii[norm],
    )
    return made(**choices) if target is None else made(target=target, **choices)


def save(out: Path, material: Material) -> None:
    """The perturbations, float32 [S, S, 3] by name, and a detector that knows them."""
    named = {
        f"{source}-{figures.name_of(r.norm)}-{'any' if r.target is None else r.target}": r
        for source, drawn in material.crafted.items()
        for r in drawn
    }
    packed = io.BytesIO()
    arrays: dict[str, Any] = {name: r.pixels for name, r in named.items()}
    np.savez_compressed(packed, **arrays)
    files.write_bytes(out / "perturbations.npz", packed.getvalue())
    if any(r.pixels.any() for r in named.values()):
        training = next(iter(material.sources.values()))
        detector.fit(list(named.values()), training).save(out / "detector.npz")


def label_index(name: str, labels: Sequence[str]) -> int:
    """Index of a class."""
    if name not in labels:
        raise DataError(
            f"--target-class: expected one of {', '.join(labels)}, got {name!r}", code="label-unknown"
        )
    return list(labels).index(name)

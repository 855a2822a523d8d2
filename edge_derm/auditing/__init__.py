"""``audit``: the float model's gradient, the deployed file's answers and ``trust``'s figures, introduced to one another."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from .. import origin
from ..errors import DataError
from ..trust import audit as figures
from ..trust import parity
from ..trust.intervals import proportion
from .material import Material, choose, craft, gather, label_index, save
from .subject import TWIN, Subject, deployed_place, open_subject
from .surroundings import surroundings

__all__ = [
    "Material",
    "Subject",
    "audit",
    "choose",
    "craft",
    "gather",
    "open_subject",
    "replay",
    "surroundings",
]


def audit(
    path: Path,
    *,
    data: str,
    proxy: str | None = None,
    against: Path | None = None,
    target_classes: Sequence[str] = (),
    norms: Sequence[float] = (2, math.inf),
    zeta: float = 0.04,
    images: int = 600,
    crafting: int = 1000,
    passes: int = 3,
    batch: int = 16,
    confidence: float = 0.95,
    enough: float = 1.0,
    aim: bool = True,
    draws: int = 5,
    part: str = "auto",
    rows_only: bool = False,
    gate: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], Exception | None]:
    """Craft universal perturbations and replay them wherever the model runs; the record, and the gate's failure.

    Args:
        path: a run folder (its files are made here) or a bundle, whose float parent is then ``against``; without one the
            gradient is that of the file itself, its weights read back as real numbers (``modeling.surrogate``).
        proxy: images of anything else, for what an attacker can do who never saw the medical data.
        target_classes: one targeted perturbation each, beside the non-targeted one.
        images, crafting: at most so many to judge on and to craft from.
        passes, batch, confidence, enough: as for ``attack.craft``; ``batch=1, confidence=0`` is the paper's algorithm.
        aim: a perturbation without a target may be made towards whatever class moves most images (``attack.craft_any``).
        draws: of each random control.
        rows_only: leave out channels, defences, detector, corruptions and pictures.
        out: folder for the perturbations and the detector (``perturbations.npz``, ``detector.npz``).

    Raises:
        DataError: the data; ``label-unknown``, ``audit-zeta``, and what ``attack.craft`` raises.
        ModelError: ``surrogate-operator``: a bundle without its float parent, of operators that have no gradient here.
        GateError: a gate file that cannot be read.
    """
    if not 0 < zeta < 1:
        raise DataError(f"zeta: expected a share between 0 and 1, got {zeta}", code="audit-zeta")
    limits = parity.read_gate(gate, known=figures.LIMITS) if gate else None
    subject = open_subject(path, against, data, seed)
    wanted = [None, *(label_index(name, subject.labels) for name in target_classes)]
    judged, sources = choose(subject, data, proxy, part, images, crafting, seed)
    material = gather(subject, judged, sources, norms, zeta, draws, seed)
    for source in sources:
        for norm in norms:
            for target in wanted:
                say(f"crafting from {source} images, norm {norm}, target {target}")
                material.crafted[source].append(
                    craft(
                        subject,
                        material,
                        source,
                        norm,
                        target,
                        passes=passes,
                        batch=batch,
                        confidence=confidence,
                        enough=enough,
                        aim=aim,
                        seed=seed,
                    )
                )
    rows = replay(subject, material, zeta, seed, say)
    agreement = twin_agreement(subject, material)
    failure = None if limits is None else figures.check_gate(rows, limits)
    extras = {} if rows_only else surroundings(subject, material, seed, say)
    if out is not None:
        save(out, material)
    record = {
        "record": "audit",
        "model": str(path),
        "against": None if against is None else str(against),
        "images": len(material.images),
        "part": judged.part,
        "seed": seed,
        "settings": {
            "zeta": zeta,
            "passes": passes,
            "batch": batch,
            "confidence": confidence,
            "enough": enough,
            "aim": aim,
            "draws": draws,
        },
        "sources": {
            name: {"data": chosen.dataset.name, "images": len(chosen.indices)}
            for name, chosen in sources.items()
        },
        "twin_agreement": agreement,
        "notes": figures.notes(
            rows, {name: len(pixels) for name, pixels in material.sources.items()}, agreement
        ),
        "rows": rows,
        **{key: extras.get(key) for key in ("channels", "defences", "detector", "corruptions", "pictures")},
        "passed": None if limits is None else failure is None,
        "command": origin.command_line(),
    }
    return record, failure


def twin_agreement(subject: Subject, material: Material) -> dict[str, Any] | None:
    """Share of the judged images where the twin, whose gradient was followed, answers as the deployed file; None: a real parent."""
    if TWIN not in subject.places:
        return None
    clean = material.images.astype(np.float32)
    same = subject.places[TWIN](clean) == subject.places[deployed_place(subject)](clean)
    return proportion(int(same.sum()), len(same))


def replay(
    subject: Subject, material: Material, zeta: float, seed: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The rows: every perturbation at every place."""
    rows = []
    visible = {
        id(r): figures.visibility(material.images[:50], r.pixels)
        for drawn in material.crafted.values()
        for r in drawn
    }
    order = [visible[id(r)] for drawn in material.crafted.values() for r in drawn]
    for where, answer in subject.places.items():
        say(f"replaying on {where}")
        found = figures.compare(
            material.crafted,
            material.controls,
            images=material.images,
            targets=material.targets,
            labels=subject.labels,
            groups=material.judged.groups,
            zeta=zeta,
            where=where,
            answer=answer,
            seed=seed,
        )
        rows += [{**row, **seen} for row, seen in zip(found, order)]
    return rows

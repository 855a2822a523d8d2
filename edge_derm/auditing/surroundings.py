"""Around the rows of an audit: channels, defences, detector, corruptions and pictures, where the file is deployed."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from ..trust import channels, corruptions, defences, detector, exhibits
from ..trust import audit as figures
from .material import Material
from .subject import Subject, deployed_place


def surroundings(
    subject: Subject, material: Material, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Channels, defences, detector, corruptions and pictures, at the place where the file is deployed."""
    where = deployed_place(subject)
    answer, plain = subject.places[where], {"images": material.images, "targets": material.targets}
    free = {source: [r for r in drawn if r.target is None] for source, drawn in material.crafted.items()}
    noise = {kind: drawn[:1] for kind, drawn in material.controls.items()}
    say(f"channels and defences on {where}")
    behind = defences.through(channels.CHANNELS, {**free, **noise}, answer=answer, **plain)
    tried = defences.through(channels.DEFENCES, free, answer=answer, **plain)
    one = material.images[0]
    costs = {
        name: defences.cost(channel, lambda image: answer(image[np.newaxis].astype(np.float32)), one)
        for name, channel in channels.DEFENCES.items()
    }
    training = next(iter(material.sources))
    say("detector and corruptions")
    known = [r for drawn in material.crafted.values() for r in drawn if r.pixels.any()]
    found = detector.judge(
        material.crafted,
        material=material.sources[training],
        images=material.images,
        channels=channels.CHANNELS,
    )
    if known:
        fitted = detector.fit(known, material.sources[training])
        found["cost"] = defences.cost(
            fitted.flags, lambda image: answer(image[np.newaxis].astype(np.float32)), one
        )
    places = {name: subject.places[name] for name in (next(iter(subject.places)), where)}
    return {
        "channels": {"where": where, "rows": behind},
        "defences": {"where": where, "rows": tried, "cost": costs},
        "detector": {**found, "labels": list(subject.labels)},
        "corruptions": corruptions.errors(places, material.images, material.targets, seed=seed),
        "pictures": pictures(subject, material),
    }


def pictures(subject: Subject, material: Material) -> list[dict[str, Any]]:
    """One strip a perturbation."""
    return [
        {
            "source": source,
            "norm": figures.name_of(r.norm),
            "targeted": None if r.target is None else subject.labels[r.target],
            "largest": float(np.abs(r.pixels).max()),
            "png": exhibits.strip(r.pixels, material.images[:3]),
        }
        for source, drawn in material.crafted.items()
        for r in drawn
    ]

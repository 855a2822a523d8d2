"""The step of ``uncertainty``: passes, measures and distances of a bundle's images, and of foreign ones, judged."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from .bundle import Bundle, open_bundle
from .data import Dataset, Sample, open_dataset
from .errors import DataError
from .runtime.decision import confidences
from .runtime.features import Features
from .runtime.measures import NAMES, measures
from .runtime.sampling import Sampler, Sampling
from .selection import Selection, recorded_parts, select, tell_problems
from .trust import distance, fitting, uncertainty

FOREIGN = 2000  # foreign images at most
CHUNK = 256
PLAIN = (
    "entropy",
    "max_probability",
)  # what one pass can tell, and the probability of the class that is named


def assess(
    path: Path,
    *,
    data: str,
    ood: str | None = None,
    mc: int | None = None,
    tta: int = 8,
    dropout: float | None = None,
    depth: int | None = None,
    ensemble: Sequence[Path] = (),
    part: str = "auto",
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge every measure under every way of sampling, and feature distances, on labelled and on foreign images.

    Args:
        ood: a data set of foreign images; those of classes that the model knows are left out. The same as ``data``: its
            classes that the model does not know.
        mc: passes; None is 32 where the bundle was trained with dropout (or a rate is given), else none.
        ensemble: further bundles with the same labels, asked once each beside this one (``ensemble`` in the record).
    """
    bundle = open_bundle(path)
    if mc is None:
        mc = 32 if bundle.manifest.dropout is not None or dropout is not None else 0
    chosen = own_images(bundle, data, part, seed)
    strange = None if ood is None else foreign_images(bundle, ood, seed)
    ways = ways_to_sample(Sampling(mc, tta, dropout, depth, seed))
    samplers = {name: Sampler([bundle], way, threads=threads) for name, way in ways.items()}
    if ensemble:
        together = [bundle, *(open_bundle(other) for other in ensemble)]
        samplers["ensemble"] = Sampler(together, Sampling(seed=seed), threads=threads)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    targets = chosen.targets(bundle.manifest.labels)
    metrics: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    foreign: dict[str, Any] = {}
    settled = None
    for name, sampler in samplers.items():
        found, mean = ask(sampler, pixels)
        wrong = sampler.first.named(mean) != targets
        metrics[name] = {k: uncertainty.judge(v, wrong, chosen.groups, seed=seed) for k, v in found.items()}
        curves[name] = {k: uncertainty.risk_coverage(v, wrong) for k, v in found.items()}
        if strange is not None:
            outside, _ = ask(sampler, strange)
            foreign[name] = {k: uncertainty.foreign(found[k], outside[k]) for k in found}
        if name == "mc":
            passes = np.concatenate([sampler.sample(part) for part in chunks(pixels)], axis=1)
            settled = uncertainty.stability(passes, wrong, partial(told_by, sampler))
        if name == "plain":
            accuracy = float(1 - wrong.mean())
            curves["best"] = {"possible": uncertainty.risk_coverage(wrong.astype(float), wrong)}
            distances = from_features(bundle, data, chosen, pixels, targets, strange, wrong, seed)
            metrics["features"], curves["features"] = distances["metrics"], distances["curves"]
            if strange is not None:
                foreign["features"] = distances["ood"]
    return {
        "record": "uncertainty",
        "bundle": str(path),
        "part": chosen.part,
        "images": len(pixels),
        "accuracy": accuracy,
        "sampling": {
            "mc": mc,
            "tta": tta,
            "dropout": (
                dropout
                if dropout is not None or bundle.manifest.dropout is None
                else bundle.manifest.dropout.rate
            ),
            "ensemble": [str(other) for other in ensemble],
            "depth": depth or (bundle.manifest.dropout.depth if bundle.manifest.dropout else None),
            "seed": seed,
        },
        "metrics": metrics,
        "risk_coverage": curves,
        "stability": settled,
        "ood": None if strange is None else {"data": ood, "images": len(strange), "auroc": foreign},
        "features": distances["about"],
        "best": {
            "errors": uncertainty.best(metrics, lambda row: row["errors"]),
            "reduction_at_80": uncertainty.best(metrics, lambda row: row["reduction_at_80"]),
            "ood": uncertainty.best(foreign, lambda row: row) if foreign else None,
        },
    }


def ways_to_sample(wanted: Sampling) -> dict[str, Sampling]:
    """One pass as it is; each way that was asked for; both together."""
    ways = {"plain": Sampling(seed=wanted.seed)}
    if wanted.mc:
        ways["mc"] = replace(wanted, tta=0)
    if wanted.tta:
        ways["tta"] = replace(wanted, mc=0)
    if wanted.mc and wanted.tta:
        ways["mc_tta"] = wanted
    return ways


def ask(sampler: Sampler, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Measures by name (higher: less sure; of one pass those it can tell), float64 [N] each, and mean probabilities [N, C]."""
    rows, means = [], []
    for part in chunks(pixels):
        passes = sampler.sample(part)
        rows.append(told_by(sampler, passes))
        means.append(passes.mean(axis=0, dtype=np.float64))
    names = NAMES if sampler.passes > 1 else PLAIN
    whole = {
        name: np.concatenate([row[name] for row in rows])
        for name in (*names, uncertainty.CONFIDENCE)
        if name != "normalised_entropy"
    }
    return uncertainty.unsure(whole), np.concatenate(means)


def told_by(sampler: Sampler, passes: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of passes [T, N, C], and the mean probability of the class that is named."""
    mean = passes.mean(axis=0, dtype=np.float64)
    return {**measures(passes), uncertainty.CONFIDENCE: confidences(mean, sampler.first.named(mean))}


def chunks(pixels: np.ndarray) -> list[np.ndarray]:
    """A few hundred images at a time: passes of thousands would not fit a board's memory."""
    return [pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK)]


def own_images(bundle: Bundle, data: str, part: str, seed: int) -> Selection:
    """The images to judge on, classes that the model does not know left out."""
    dataset = open_dataset(data, seed=seed)
    tell_problems(dataset)
    manifest = bundle.manifest
    known = only(dataset, [name for name in dataset.labels if name in manifest.labels])
    if not len(known):
        raise DataError(
            f"{data}: expected images of classes the model knows ({', '.join(manifest.labels)}), got "
            f"{', '.join(dataset.labels)}: rename the folders or use other data",
            code="labels-unknown",
        )
    return select(data, part=part, provenance=manifest.provenance, labels=manifest.labels, dataset=known)


def foreign_images(bundle: Bundle, data: str, seed: int) -> np.ndarray:
    """Pixels of classes that the model does not know, a random ``FOREIGN`` of them where there are more."""
    dataset = open_dataset(data, seed=seed)
    strange = only(dataset, [name for name in dataset.labels if name not in bundle.manifest.labels])
    if not len(strange):
        raise DataError(
            f"{data}: expected images of classes the model does not know, got only {', '.join(dataset.labels)}: "
            "give other images to --ood",
            code="ood-known",
        )
    chosen = Selection(strange, np.arange(len(strange)), "all").sample(FOREIGN, seed=seed)
    return chosen.pixels(bundle.manifest.input.size_px)


def only(dataset: Dataset, names: list[str]) -> Dataset:
    """The data set with these classes alone."""
    if list(dataset.labels) == names:
        return dataset
    kept = [sample for sample in dataset.samples if dataset.labels[sample.label] in names]
    moved = tuple(
        Sample(s.image_id, names.index(dataset.labels[s.label]), s.group, s.path, s.meta) for s in kept
    )
    return replace(dataset, labels=tuple(names), samples=moved)


def from_features(
    bundle: Bundle,
    data: str,
    chosen: Selection,
    pixels: np.ndarray,
    targets: np.ndarray,
    strange: np.ndarray | None,
    wrong: np.ndarray,
    seed: int,
) -> Mapping[str, Any]:
    """The distances' figures: known images are the recorded training part, else half of the lesions, the rest judged."""
    features = Features(bundle)
    parts = recorded_parts(chosen.dataset, bundle.manifest.provenance)
    own = features.of(pixels)
    if "train" in parts and chosen.part != "train" and chosen.part != "all":
        known = replace(chosen, indices=parts["train"]).sample(distance.BANK, seed=seed)
        bank = distance.remember(
            features.of(known.pixels(bundle.manifest.input.size_px)), known.targets(bundle.manifest.labels)
        )
        judged, source = np.arange(len(pixels)), "train"
    else:
        fit, judged = fitting.halves(chosen.groups, seed=seed)
        bank, source = distance.remember(own[fit], targets[fit], seed=seed), "half of the lesions"
    inside = bank.distances(own[judged])
    outside = None if strange is None else bank.distances(features.of(strange))
    groups = [chosen.groups[i] for i in judged]
    return {
        "metrics": {k: uncertainty.judge(v, wrong[judged], groups, seed=seed) for k, v in inside.items()},
        "curves": {k: uncertainty.risk_coverage(v, wrong[judged]) for k, v in inside.items()},
        "ood": None if outside is None else {k: uncertainty.foreign(inside[k], outside[k]) for k in inside},
        "about": {"known": len(bank.unit), "known_images": source, "judged": len(judged)},
    }

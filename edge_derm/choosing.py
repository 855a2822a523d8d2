"""The step of ``infoplane``: places models on the information plane, on the same images, and says what follows from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from .bundle import Provenance, open_bundle
from .errors import DataError
from .runtime import Classifier
from .selection import Selection, recorded_parts, select
from .origin import check_same_labels, provenance_of
from .trust import infoplane
from .trust.infoplane import BINS, SAMPLES
from .trust.intervals import jackknife

PATH = "plane.json"  # what ``modeling.plane`` writes beside a run


@dataclass(frozen=True)
class Candidate:
    """A run folder or a bundle, ready to be asked."""

    path: Path
    kind: str
    labels: tuple[str, ...]
    size_px: int
    provenance: Provenance
    scores: Callable[
        [np.ndarray], np.ndarray
    ]  # uint8 [N, S, S, 3] → probabilities [N, C], without calibration
    about: dict[str, Any]  # for the record; what is not known is None
    choices: str  # models with equal choices differ in their data, or in their start, alone


@dataclass(frozen=True)
class Sight:
    """The images that every model is placed on."""

    targets: np.ndarray
    labels: tuple[str, ...]
    groups: list[str]


def survey(
    paths: Sequence[Path],
    *,
    data: str,
    bins: int = BINS,
    samples: int = SAMPLES,
    part: str = "auto",
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Every model's point, shuffled control and path; their ranking; what they know of each class; what pretraining brought.

    Args:
        samples: images at most, drawn once for all models.
        part: as for ``evaluate``, of the first model's split; no model may have been trained on these images.

    Raises:
        DataError: ``part-trained``, ``plane-…`` and what opening data raises. BundleError: ``labels-differ``.
    """
    models = [opened(path, threads) for path in paths]
    chosen = common_images(models, data, part).sample(samples, seed=seed)
    sight = Sight(chosen.targets(models[0].labels), models[0].labels, chosen.groups)
    points, found = [], []
    for model in models:
        p = model.scores(chosen.pixels(model.size_px))
        found.append(infoplane.symbols(p, bins=bins))
        told = infoplane.describe(p, sight.targets, bins=bins, seed=seed)
        points.append(
            {
                "model": str(model.path),
                "kind": model.kind,
                **model.about,
                **told,
                "corrected": infoplane.says(found[-1], sight.targets, sight.groups),
                **quality(p, sight.targets),
                "train_images": trained_on(model, chosen),
                "path": path_of(model),
            }
        )
    return {
        "record": "infoplane",
        "data": data,
        "part": chosen.part,
        "images": len(sight.targets),
        "bins": bins,
        "seed": seed,
        "h_y": infoplane.entropy(sight.targets),
        "points": points,
        "shuffled": {row["model"]: row["shuffled"] for row in points},
        "ranking": ranking(points, found, sight),
        "classes": classes(models, points, found, sight),
        "starts": starts(models, points, found, sight),
    }


def opened(path: Path, threads: int = 1) -> Candidate:
    """The run folder or bundle at ``path``.

    Raises:
        DataError: ``plane-model``. ModelError, BundleError: it does not open.
    """
    if (path / "manifest.json").is_file():
        bundle = open_bundle(path)
        classifier, m = Classifier.open(bundle, threads=threads), bundle.manifest
        about = {"variant": m.variant, "alpha": m.alpha, "recipe": m.recipe, "pretrained": None}
        choices = json.dumps(
            [m.recipe, m.variant, m.alpha, dict(m.dilation), m.input.size_px, m.provenance.seed]
        )
        return Candidate(
            path, "bundle", m.labels, m.input.size_px, m.provenance,
            lambda pixels: classifier.scores.temper(classifier.raw(pixels), None), about, choices,
        )  # fmt: skip
    if not (path / "run.json").is_file():
        raise DataError(
            f"{path}: expected a bundle or the folder of a finished run, found neither manifest.json nor run.json in it",
            code="plane-model",
        )
    from .modeling import runs, scoring

    network, run = runs.load(path)
    config = dict(run.get("identity", {}).get("config") or {})
    weights = config.pop("weights", None)
    about = {
        "variant": run.get("variant"),
        "alpha": run.get("alpha"),
        "recipe": None,
        "pretrained": bool(weights) if config else None,
    }
    return Candidate(
        path, "run", tuple(run["classes"]), run["size_px"], provenance_of(path, run),
        lambda pixels: scoring.probabilities(network, pixels), about, json.dumps(config, sort_keys=True),
    )  # fmt: skip


def common_images(models: Sequence[Candidate], data: str, part: str) -> Selection:
    """The images that ``part`` means for the first model, after a check that no other model learned from them."""
    first = models[0]
    chosen = select(data, part=part, provenance=first.provenance, labels=first.labels)
    for model in models[1:]:
        check_same_labels(model.labels, first.labels, model.path)
        learned = recorded_parts(chosen.dataset, model.provenance).get("train", [])
        shared = len(np.intersect1d(learned, chosen.indices))
        if shared and chosen.part != "all":
            raise DataError(
                f"{model.path}: expected a model that did not learn from the part {chosen.part} of {first.path}, got one that "
                f"saw {shared} of its {len(chosen.indices)} images: train both with the same --seed and --hold-out",
                code="part-trained",
            )
    return chosen


def quality(p: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The figures a point stands beside: accuracy, balanced accuracy, cross-entropy in nats."""
    right = p.argmax(axis=1) == targets
    chosen = np.clip(p[np.arange(len(p)), targets], 1e-7, 1)
    recalls = [right[targets == c].mean() for c in np.unique(targets)]
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "loss": float(-np.log(chosen).mean()),
    }


def trained_on(model: Candidate, chosen: Selection) -> dict[str, int] | None:
    """Training images by class; None where these are not the data the model was trained on."""
    learned = recorded_parts(chosen.dataset, model.provenance).get("train")
    if learned is None:
        return None
    order = [model.labels.index(name) for name in chosen.dataset.labels]
    counts = np.bincount(chosen.dataset.targets(learned), minlength=len(order))
    return {model.labels[place]: int(count) for place, count in zip(order, counts)}


def path_of(model: Candidate) -> list[dict[str, Any]] | None:
    """What ``train --plane`` recorded, if anything."""
    stored = model.path / PATH
    return json.loads(stored.read_text(encoding="utf-8"))["path"] if stored.is_file() else None


def ranking(points: list[dict[str, Any]], found: Sequence[np.ndarray], sight: Sight) -> list[dict[str, Any]]:
    """Models by corrected I(T;Y), the most first, each with its distance to the first."""
    order = sorted(range(len(points)), key=lambda i: -points[i]["i_ty_corrected"])
    first = found[order[0]]
    return [
        {
            "rank": rank,
            "model": points[i]["model"],
            "corrected": points[i]["corrected"],
            "behind": infoplane.gap(first, found[i], sight.targets, sight.groups) if rank > 1 else None,
            **{key: points[i][key] for key in ("accuracy", "balanced_accuracy", "loss")},
        }
        for rank, i in enumerate(order, 1)
    ]


def classes(
    models: Sequence[Candidate], points: list[dict[str, Any]], found: Sequence[np.ndarray], sight: Sight
) -> list[dict[str, Any]]:
    """A row a class and family (models that differ in their training images alone): I(T;Y_c) against images, and saturation."""
    rows = []
    families: dict[tuple[Any, ...], list[int]] = {}
    for i, model in enumerate(models):
        families.setdefault((model.kind, model.choices, model.about["pretrained"]), []).append(i)
    for members in families.values():
        known = [i for i in members if points[i]["train_images"]] or members[:1]
        for c, label in enumerate(sight.labels):
            mine = (sight.targets == c).astype(np.int64)
            if 0 < mine.sum() < len(mine):
                row = {"label": label, "judged": int(mine.sum())}
                rows.append({**row, **curve(known, label, points, found, mine, sight.groups)})
    return rows


def curve(
    members: Sequence[int],
    label: str,
    points: list[dict[str, Any]],
    found: Sequence[np.ndarray],
    mine: np.ndarray,
    groups: Sequence[str],
) -> dict[str, Any]:
    """One family's I(T;Y_c), fewest training images first, and what saturates."""
    counts = {i: (points[i]["train_images"] or {}).get(label) for i in members}
    order = sorted(members, key=lambda i: counts[i] or 0)
    most = infoplane.entropy(mine)

    images = [(m, count) for m in order if (count := counts[m]) is not None]

    def fitted(i: np.ndarray) -> dict[str, Any]:
        bits = [infoplane.place(found[m][i], mine[i]).i_ty_corrected for m, _ in images]
        return infoplane.saturation([count for _, count in images], bits, most=most)

    whole = fitted(np.arange(len(mine)))
    if whole["reached"] is not None:
        whole["reached"] = jackknife(lambda i: fitted(i)["reached"] or 0.0, groups)
    steps = [
        {
            "model": points[m]["model"],
            "images": counts[m],
            "bits": infoplane.place(found[m], mine).i_ty_corrected,
        }
        for m in order
    ]
    return {"h": most, "curve": steps, **whole}


def starts(
    models: Sequence[Candidate], points: list[dict[str, Any]], found: Sequence[np.ndarray], sight: Sight
) -> list[dict[str, Any]]:
    """Pairs of runs that differ in their start alone: what pretrained weights brought, and when the other caught up."""
    pairs = [
        (i, j)
        for i, one in enumerate(models)
        for j, other in enumerate(models)
        if one.about["pretrained"] and other.about["pretrained"] is False
        and one.choices == other.choices and points[i]["train_images"] == points[j]["train_images"]
    ]  # fmt: skip
    return [
        {
            "pretrained": points[i]["model"],
            "random": points[j]["model"],
            "gain": infoplane.gap(found[i], found[j], sight.targets, sight.groups),
            "caught_up_epoch": caught_up(points[i]["path"], points[j]["path"]),
        }
        for i, j in pairs
    ]


def caught_up(leader: list[dict[str, Any]] | None, other: list[dict[str, Any]] | None) -> float | None:
    """The epoch at which ``other``'s path reached what ``leader``'s had after its first epoch; None: never, or no paths."""
    goal = next((row["i_ty_corrected"] for row in leader or () if row["epoch"] >= 1), None)
    if goal is None:
        return None
    return next((row["epoch"] for row in other or () if row["i_ty_corrected"] >= goal), None)

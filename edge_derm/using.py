"""The steps that use a bundle (``predict``, ``bench``) and show what came of it (``report``); as ``making``, for a board too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from . import files
from .bundle import open_bundle
from .data import preprocess, read_image
from .errors import BackendError, DataError
from .inspecting import inspect, read_file
from .origin import command_line
from .runtime import Classifier, Prediction
from .runtime.features import Foreign
from .runtime.measures import measures
from .runtime.sampling import Sampler, Sampling

MASK_PICTURE_PX = 384  # least side of a picture with its mask


def predict(
    path: Path,
    images: Sequence[Path],
    *,
    mc: int = 0,
    tta: int = 0,
    dropout: float | None = None,
    ensemble: Sequence[Path] = (),
    backend: str = "litert",
    threads: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One record an image: label, probabilities, uncertainty, conformal set, abstain; what is off is None.

    Args:
        mc, tta, ensemble: passes under dropout, views, further bundles; the decision is then the mean's.
    """
    if not mc and not tta and not ensemble:
        bundle = open_bundle(path)
        classifier = Classifier.open(bundle, backend=backend, threads=threads)
        foreign = Foreign(bundle) if backend == "litert" else None
        records = []
        for image in images:
            pixels = preprocess(read_image(image), classifier.size_px)[np.newaxis]
            decided = classifier.decide(classifier.predict(pixels))[0]
            records.append(_predicted(image, decided, {}, 1, seed, foreign, pixels))
        return records
    if backend != "litert":
        raise BackendError(
            f"--mc, --tta and --ensemble: expected the backend litert, got {backend}", code="backend-sampling"
        )
    sampler = Sampler(
        [open_bundle(p) for p in (path, *ensemble)], Sampling(mc, tta, dropout, seed=seed), threads=threads
    )
    foreign = Foreign(open_bundle(path))
    records = []
    for image in images:
        pixels = preprocess(read_image(image), sampler.first.size_px)[np.newaxis]
        passes = sampler.sample(pixels)
        told = {name: float(value[0]) for name, value in measures(passes).items()}
        decided = sampler.first.decide(passes.mean(axis=0, dtype=np.float64))[0]
        records.append(_predicted(image, decided, told, len(passes), seed, foreign, pixels))
    return records


def _predicted(
    image: Path,
    decided: Prediction,
    told: dict[str, float],
    passes: int,
    seed: int,
    foreign: Foreign | None,
    pixels: np.ndarray,
) -> dict[str, Any]:
    distance = None if foreign is None else foreign.distance(pixels)
    return {
        "record": "predict",
        "image": str(image),
        "label": decided.label,
        "confidence": decided.confidence,
        "probabilities": dict(decided.probabilities),
        "entropy": decided.entropy,
        "variance": told.get("variance"),
        "bhattacharyya": told.get("bhattacharyya"),
        "mutual_information": told.get("mutual_information"),
        "passes": passes,
        "seed": seed if told else None,
        "prediction_set": decided.prediction_set,
        "abstained": decided.abstained,
        "distance": distance,
        "foreign": None if foreign is None or distance is None else foreign.is_foreign(distance),
    }


def draw_masks(path: Path, images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Where a bundle with attention looked: ``out``/NAME-mask.png for each image, what the model saw with its mask over it.

    Raises:
        ModelError: ``attention-missing``.
    """
    import cv2

    from .runtime.attention import Masks, overlay

    bundle = open_bundle(path)
    masks, size_px = Masks(bundle), bundle.manifest.input.size_px
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for image in images:
        picture = read_image(image)
        mask = masks.of(preprocess(picture, size_px)[np.newaxis])[0]
        shown = overlay(preprocess(picture, max(size_px, MASK_PICTURE_PX)), mask)
        file = out / f"{image.stem}-mask.png"
        files.write_bytes(file, cv2.imencode(".png", shown[..., ::-1])[1].tobytes())
        figures = {"least": float(mask.min()), "mean": float(mask.mean()), "most": float(mask.max())}
        records.append({"file": str(file), **figures})
    return records


def bench(
    path: Path,
    *,
    compare: Path | None = None,
    target: str = "local",
    runs: int = 200,
    backend: str = "litert",
    threads: int = 1,
    profile: bool = False,
    soak_min: float | None = None,
    count_instructions: bool = False,
) -> dict[str, Any]:
    """Latency, memory and operators on a target."""
    from .measure import targets

    return targets.bench(
        path,
        target=target,
        compare=compare,
        runs=runs,
        backend=backend,
        threads=threads,
        profile=profile,
        soak_min=soak_min,
        command=command_line(),
        count_instructions=count_instructions,
    )


def report(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """One HTML page from run folders, bundles and JSON records."""
    from .report import page

    records: list[dict[str, Any]] = []
    for path in paths:
        records.extend(records_at(path))
    page.render(records, out)
    return {"record": "report", "report": str(out)}


def records_at(path: Path) -> list[dict[str, Any]]:
    """The records a path stands for: a run's, a bundle's (as ``inspect`` gives it), or a JSON file's."""
    if (path / "run.json").is_file():
        return [json.loads((path / "run.json").read_text(encoding="utf-8"))]
    if path.is_dir():
        return [inspect(path)]
    try:
        value = json.loads(read_file(path))
    except ValueError as error:
        raise DataError(
            f"{path}: expected a run folder, a bundle or a JSON record, got no JSON ({error}): "
            "make records with --json FILE",
            code="record-broken",
        ) from error
    records = value if isinstance(value, list) else [value]
    if not all(isinstance(record, dict) for record in records):
        raise DataError(
            f"{path}: expected a JSON object or a list of them, got other values", code="record-broken"
        )
    return records

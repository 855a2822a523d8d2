"""The cells of ``infoplane.py``: one candidate trained, one candidate's int8 files; what is kept of each is a file of scores."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np

from edge_derm import files
from edge_derm.data import Dataset, Split, open_dataset, split
from edge_derm.data.split import thin
from edge_derm.trust import infoplane

EPOCHS, SIZE_PX, HOLD_OUT, BATCH = 6, 48, 0.2, 32
PLAIN: dict[str, Any] = {"zoom": (0.999, 1.0), "turn": False, "contrast": 0.0, "brightness": 0.0, "tint": 0.0}
ROUNDINGS = ("reconstruct", "nearest")
EXPORTED = 8  # candidates, the first ones


@dataclass(frozen=True)
class Candidate:
    """One way to train; everything else is the default recipe."""

    name: str
    variant: str
    pretrained: bool
    alpha: float = 0.25
    rate: float | None = None
    augmentation: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    share: float = 0.5  # of the training images


CANDIDATES = (
    Candidate("d1-imagenet", "d1", True),
    Candidate("d1-random", "d1", False),
    Candidate("mobilenet-imagenet", "mobilenet", True),
    Candidate("mobilenet-random", "mobilenet", False),
    Candidate("d1-imagenet-rate-5e-4", "d1", True, rate=5e-4),
    Candidate("d1-imagenet-plain", "d1", True, augmentation=PLAIN),
    Candidate("d2-imagenet", "d2", True),
    Candidate("d3-imagenet", "d3", True),
    Candidate("d3-random", "d3", False),
    Candidate("mobilenet-imagenet-rate-1e-2", "mobilenet", True, rate=1e-2),
    Candidate("d1-random-rate-2e-3", "d1", False, rate=2e-3),
    Candidate("mobilenet-random-plain", "mobilenet", False, augmentation=PLAIN),
    Candidate("d1-imagenet-unadjusted", "d1", True, more={"adjustment": 0.0}),
    Candidate("d1-random-alpha-0.35", "d1", False, alpha=0.35),
    Candidate("mobilenet-imagenet-rate-1e-4", "mobilenet", True, rate=1e-4),
    Candidate("d2-random", "d2", False),
)
SHARES = tuple(
    Candidate(f"d1-imagenet-share-{share}", "d1", True, share=share) for share in (0.125, 0.25, 1.0)
)


@dataclass(frozen=True)
class Remembered(Dataset):
    """A data set whose images are decoded once and kept in a folder."""

    folder: Path = Path()

    def images(self, size_px: int, indices: Any = None, *, workers: int | None = None) -> np.ndarray:
        path = self.folder / f"pixels-{size_px}.npy"
        if not path.is_file():
            with files.replace_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, super().images(size_px, workers=workers))
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices)
        return np.asarray(np.load(path, mmap_mode="r")[chosen])


def remembered(data: str, work: Path) -> Remembered:
    """The data set ``data`` with its pixels kept in ``work``."""
    found = open_dataset(data)
    return Remembered(**{name.name: getattr(found, name.name) for name in fields(found)}, folder=work)


def parts_of(dataset: Dataset, share: float) -> Split:
    """The split of every cell, with a share of the training part."""
    kept = 1 - HOLD_OUT
    fractions = {"train": 0.85 * kept, "validation": 0.15 * kept, "test": HOLD_OUT}
    return thin(dataset, split(dataset, seed=0, fractions=fractions), share)


def train(candidate: Candidate, dataset: Dataset, weights: str, work: Path) -> None:
    """A training cell: the run's folder, then ``NAME.npz`` with scores and targets."""
    from edge_derm.modeling import plane, scoring, stages, training
    from edge_derm.modeling.augmentation import Augmentation
    from edge_derm.modeling.recipe import TrainConfig

    started = time.process_time()
    parts = parts_of(dataset, candidate.share)
    config = TrainConfig(
        variant=candidate.variant,
        dilation=stages.dilation_map(candidate.variant, None),
        alpha=candidate.alpha,
        size_px=SIZE_PX,
        epochs=EPOCHS,
        batch=BATCH,
        weights=weights if candidate.pretrained else None,
        learning_rate=candidate.rate,
        augmentation=Augmentation(**candidate.augmentation),
        **candidate.more,
    )
    pixels = {name: dataset.images(SIZE_PX, parts.parts[name]) for name in ("validation", "test")}
    kept: dict[str, Any] = {f"targets.{name}": dataset.targets(parts.parts[name]) for name in pixels}
    kept["counts"] = np.bincount(dataset.targets(parts.parts["train"]), minlength=len(dataset.labels))

    def keep(state: Any, model: Any) -> None:
        kept[f"epoch.{state.epoch}"] = scoring.probabilities(model, pixels["validation"])
        kept["test"] = scoring.probabilities(model, pixels["test"])

    out = work / candidate.name
    shutil.rmtree(out, ignore_errors=True)  # half a minute's work is begun anew rather than resumed
    recorder = plane.Recorder(out, 32, infoplane.describe)
    training.train(dataset, parts, config, out, callbacks=[keep], watchers=[recorder])
    kept["cpu_s"] = time.process_time() - started
    store(work / f"{candidate.name}.npz", kept)


def export(candidate: Candidate, dataset: Dataset, work: Path) -> None:
    """A file cell: scores of the float model and of its int8 files on the held-out images, in ``NAME.files.npz``."""
    from edge_derm.modeling import export as exporting
    from edge_derm.modeling import runs, scoring
    from edge_derm.runtime import Classifier

    started = time.process_time()
    model, run = runs.load(work / candidate.name)
    parts = parts_of(dataset, candidate.share)
    pixels = dataset.images(SIZE_PX, parts.parts["test"])
    calibration = dataset.images(SIZE_PX, parts.parts["train"][:: max(1, len(parts.parts["train"]) // 256)])
    kept: dict[str, Any] = {"float": scoring.probabilities(model, pixels)}
    for rounding in ROUNDINGS:
        product = exporting.export(model, recipe="int8", calibration=calibration, rounding=rounding)
        kept[rounding] = Classifier.of(product.model, run["classes"]).predict(pixels)
    kept["cpu_s"] = time.process_time() - started
    store(work / f"{candidate.name}.files.npz", kept)


def store(path: Path, kept: dict[str, Any]) -> None:
    with files.replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **kept)


def jobs(dataset: Dataset, weights: str, work: Path) -> list[tuple[str, Callable[[], None]]]:
    """What is still to be made, the files of a candidate right after it."""
    made: list[tuple[str, Callable[[], None]]] = []
    for candidate in (*CANDIDATES, *SHARES):
        made.append((f"{candidate.name}.npz", partial(train, candidate, dataset, weights, work)))
        if candidate in CANDIDATES[:EXPORTED]:
            made.append((f"{candidate.name}.files.npz", partial(export, candidate, dataset, work)))
    return [(name, job) for name, job in made if not (work / name).is_file()]

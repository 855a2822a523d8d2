"""Which images a step works on: a data set, the part of it a model may be judged on, and the labels it must match."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any, Sequence

import numpy as np

from .bundle import Provenance
from .data import Dataset, open_dataset
from .data.split import again
from .errors import DataError


@dataclass(frozen=True)
class Selection:
    """Some images of a data set. ``part`` is ``all`` or the name of the part of the recorded split."""

    dataset: Dataset
    indices: np.ndarray  # int64 [N]
    part: str

    def pixels(self, size_px: int) -> np.ndarray:
        """Preprocessed images, uint8 [N, S, S, 3]."""
        return self.dataset.images(size_px, self.indices)

    def targets(self, labels: Sequence[str]) -> np.ndarray:
        """int64 [N]: index into ``labels`` (a model's), which may hold more classes than the data do."""
        order = np.array([labels.index(name) for name in self.dataset.labels], dtype=np.int64)
        return order[self.dataset.targets(self.indices)]

    def sample(self, most: int, *, seed: int) -> Selection:
        """At most ``most`` of these images, drawn without replacement."""
        if len(self.indices) <= most:
            return self
        drawn = np.random.default_rng(seed).choice(self.indices, most, replace=False)
        return replace(self, indices=np.sort(drawn))

    @property
    def groups(self) -> list[str]:
        """Lesion or patient of each image."""
        return [self.dataset.samples[i].group for i in self.indices]

    @property
    def image_ids(self) -> list[str]:
        return [self.dataset.samples[i].image_id for i in self.indices]

    @property
    def meta(self) -> list[dict[str, str]]:
        """Age, sex, site … of each image as the data set gives them."""
        return [dict(self.dataset.samples[i].meta) for i in self.indices]


def select(
    spec: str,
    *,
    part: str = "all",
    provenance: Provenance | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    dataset: Dataset | None = None,
) -> Selection:
    """Open ``spec`` (or take ``dataset``) and choose a part of it.

    ``auto``: when these are the data the model was trained on (same digest: the recorded split is made again), its test part,
    or its validation part where nothing was held out; everything otherwise.

    Raises:
        DataError: the data, ``part-unknown``, ``labels-unknown`` (a class the model does not know).
    """
    if dataset is None:
        dataset = open_dataset(spec, seed=seed)
        tell_problems(dataset)
    unknown = sorted(set(dataset.labels) - set(labels or dataset.labels))
    if unknown:
        raise DataError(
            f"{spec}: expected only classes the model knows ({', '.join(labels or ())}), "
            f"got {', '.join(unknown)}: rename the folders or use other data",
            code="labels-unknown",
        )
    parts = recorded_parts(dataset, provenance)
    if part == "all" or (part == "auto" and not parts):
        return Selection(dataset, np.arange(len(dataset)), "all")
    name = part if part != "auto" else "test" if "test" in parts else "validation"
    if name not in parts:
        known = ", ".join(["all", *parts])
        why = "" if parts else " (the model was not trained on these data)"
        raise DataError(f"{spec}: expected a part out of {known}{why}, got {name!r}", code="part-unknown")
    return Selection(dataset, parts[name], name)


def tell_problems(dataset: Dataset) -> None:
    """On stderr: each kind of problem in the data, how often, and the first places."""
    places: dict[str, list[str]] = {}
    for problem in dataset.problems:
        places.setdefault(problem.kind, []).append(problem.where)
    for kind, where in places.items():
        more = ", …" if len(where) > 3 else ""
        print(
            f"edge-derm: warning: {dataset.name}: {kind}: {len(where)} ({', '.join(where[:3])}{more})",
            file=sys.stderr,
        )


def recorded_parts(dataset: Dataset, provenance: Provenance | None) -> dict[str, Any]:
    """The parts of the split a model was trained with, if ``dataset`` is what it was trained on; else none."""
    if provenance is None or provenance.split is None or provenance.data_digest != dataset.digest:
        return {}
    return dict(again(dataset, provenance.split).parts)

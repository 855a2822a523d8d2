"""A labelled set of images as frozen data; pixels are read when asked for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np

from edge_derm.data.preprocess import preprocess, read_image
from edge_derm.errors import DataError


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data that was reported rather than refused."""

    kind: str  # stable, e.g. "image-broken", "row-without-image"
    where: str
    detail: str


@dataclass(frozen=True)
class Sample:
    """One image: its label's index, its lesion or patient (its own id where unknown), and what the metadata say."""

    image_id: str
    label: int
    group: str
    path: Path | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Images with labels. ``digest`` depends on pixels' files and labels, not on where they lie or their order."""

    name: str
    spec: str  # what opened it: a path or ``synthetic:N``
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    digest: str
    draw: Callable[[int], np.ndarray] | None = None  # synthetic data: sample number → uint8 RGB

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> np.ndarray:
        """Image ``index`` as uint8 RGB [H, W, 3].

        Raises:
            DataError: as ``read_image``.
        """
        path = self.samples[index].path
        if path is not None:
            return read_image(path)
        assert self.draw is not None
        return self.draw(int(self.samples[index].image_id.rsplit("-", 1)[1]))

    def targets(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Label indices, int64 [N]."""
        chosen = range(len(self)) if indices is None else indices
        return np.array([self.samples[i].label for i in chosen], dtype=np.int64)

    def images(
        self, size_px: int, indices: Sequence[int] | np.ndarray | None = None, *, workers: int | None = None
    ) -> np.ndarray:
        """Preprocessed images, uint8 [N, size_px, size_px, 3]; the same bytes whatever the number of ``workers``.

        Raises:
            DataError: ``images-broken``: names and counts every image that does not decode.
        """
        chosen = list(range(len(self)) if indices is None else indices)
        out = np.empty((len(chosen), size_px, size_px, 3), dtype=np.uint8)
        errors: list[tuple[int, DataError]] = []

        def fill(place: int) -> None:
            try:
                out[place] = preprocess(self.read(int(chosen[place])), size_px)
            except DataError as error:
                errors.append((place, error))

        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            list(pool.map(fill, range(len(chosen))))
        if errors:
            raise _broken([error for _, error in sorted(errors, key=lambda item: item[0])])
        return out

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The same data set with only these samples (the digest stays that of the whole)."""
        return replace(self, samples=tuple(self.samples[int(i)] for i in indices))


def _broken(errors: list[DataError]) -> DataError:
    if len(errors) == 1:
        return errors[0]
    listed = "; ".join(str(error) for error in errors[:3])
    return DataError(
        f"{len(errors)} images cannot be used: {listed}{'; …' if errors[3:] else ''}", code="images-broken"
    )

"""Passes: the probabilities that a bundle, or a few, give an image when asked more than once.

Dropout, views and ensembles multiply: every bundle looks at every view under every dropout mask. All of it follows from one seed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Sequence

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.errors import BundleError
from edge_derm.runtime.classifier import Classifier
from edge_derm.runtime.dropout import DropoutPasses
from edge_derm.runtime.encoding import Write
from edge_derm.runtime.views import DIHEDRAL, turn, views

MOST_BATCH = 64  # images in one run


@dataclass(frozen=True)
class Sampling:
    """How often to ask: dropout passes (0: none), views (0: the image alone), and what the masks are drawn with."""

    mc: int = 0
    tta: int = 0
    rate: float | None = None  # None: what the bundle was trained with
    depth: int | None = None
    seed: int = 0

    @property
    def passes(self) -> int:
        """Passes of one bundle."""
        return max(1, self.mc) * max(1, self.tta)


class Sampler:
    """One or more bundles with the same labels and input, opened for passes."""

    def __init__(
        self, bundles: Sequence[Bundle], sampling: Sampling, *, kernels: str = "default", threads: int = 1
    ) -> None:
        """Open every bundle as often as it is needed.

        Raises:
            BundleError: ``labels-differ``, ``size-differs``, ``dropout-unknown``. BackendError. ModelError: ``cut-…``.
        """
        _check_alike(bundles)
        self.sampling = sampling
        self.classifiers = [Classifier.open(bundle, kernels=kernels, threads=threads) for bundle in bundles]
        self._dropouts, self._viewers = [], []
        for bundle in bundles:
            if sampling.mc:
                self._dropouts.append(
                    DropoutPasses(
                        bundle,
                        sampling.mc,
                        rate=sampling.rate,
                        depth=sampling.depth,
                        seed=sampling.seed,
                        kernels=kernels,
                        threads=threads,
                    )
                )
            elif sampling.tta > 1:
                self._viewers.append(
                    Viewer(bundle, sampling.tta, seed=sampling.seed, kernels=kernels, threads=threads)
                )

    @property
    def first(self) -> Classifier:
        """The bundle whose manifest decides."""
        return self.classifiers[0]

    @property
    def passes(self) -> int:
        """T of ``sample``."""
        return self.sampling.passes * len(self.classifiers)

    def sample(self, images: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of every pass.

        Args:
            images: uint8 [N, S, S, 3], preprocessed.

        Returns:
            float32 [T, N, C]; of each bundle, of each view, the dropout passes.
        """
        rows = [self._of_bundle(number, images) for number in range(len(self.classifiers))]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def _of_bundle(self, number: int, images: np.ndarray) -> np.ndarray:
        """[T, N, C] of one bundle."""
        classifier, tta = self.classifiers[number], self.sampling.tta
        if self.sampling.mc:
            looked_at = views(images, tta, seed=self.sampling.seed) if tta else images[:, None]
            seen = range(looked_at.shape[1])
            raw = [self._dropouts[number].raw(looked_at[:, view]) for view in seen]
            scores = raw[0] if len(raw) == 1 else np.concatenate(raw)
        elif self._viewers:
            scores = self._viewers[number].raw(images)
        else:
            scores = classifier.raw(images)[np.newaxis]
        return classifier.calibrated(scores)


class Viewer:
    """Every view of an image at once: as many copies of the model as threads, each running its share as one batch.

    Copies on single threads beat one run on several: the layers of a small network are too short to be shared. The symmetries
    of an image are written straight into the input tensor, encoded once: a copy of eight views would cost a tenth of a run.
    """

    def __init__(self, bundle: Bundle, count: int, *, seed: int, kernels: str, threads: int) -> None:
        self._count, self._seed = count, seed
        shares = np.array_split(np.arange(count), min(threads, count))
        self._shares = [slice(int(share[0]), int(share[-1]) + 1) for share in shares]
        self._copies = [
            Classifier.open(bundle, kernels=kernels, batch=min(len(share), MOST_BATCH)) for share in shares
        ]
        self._pool = ThreadPoolExecutor(len(shares) - 1) if len(shares) > 1 else None

    def raw(self, images: np.ndarray) -> np.ndarray:
        """Scores float32 [V, N, C] of the views of uint8 images [N, S, S, 3]."""
        images = self._copies[0].checked(images)
        if self._count > DIHEDRAL or not len(images):
            looked_at = views(images, self._count, seed=self._seed)
            jobs = [partial(_seen, copy, looked_at[:, part]) for copy, part in self._parts()]
        else:
            jobs = [partial(_turned, copy, images, part.start) for copy, part in self._parts()]
        if self._pool is None:
            return jobs[0]()
        waiting = [self._pool.submit(job) for job in jobs[1:]]
        return np.concatenate([jobs[0](), *(job.result() for job in waiting)])

    def _parts(self) -> list[tuple[Classifier, slice]]:
        return list(zip(self._copies, self._shares))


def _seen(copy: Classifier, looked_at: np.ndarray) -> np.ndarray:
    """[V, N, C] of views [N, V, S, S, 3]."""
    count, seen = looked_at.shape[:2]
    flat = looked_at.reshape(count * seen, *looked_at.shape[2:])
    return copy.raw(flat).reshape(count, seen, -1).swapaxes(0, 1)


def _turned(copy: Classifier, images: np.ndarray, first: int) -> np.ndarray:
    """[V, N, C]: as many symmetries of each image as the copy takes at once, from ``first`` on."""

    def write(image: np.ndarray, encode: Write, tensor: np.ndarray) -> None:
        stored = np.empty((1, *image.shape), tensor.dtype)
        encode(image[np.newaxis], stored)
        turn(stored[0], tensor, first=first)

    rows = [copy.raw_written(partial(write, image)) for image in images]
    return rows[0][:, np.newaxis] if len(rows) == 1 else np.stack(rows, axis=1)


def _check_alike(bundles: Sequence[Bundle]) -> None:
    first = bundles[0].manifest
    for other in bundles[1:]:
        if other.manifest.labels != first.labels:
            raise BundleError(
                f"{other.path}: expected the labels {', '.join(first.labels)}, got {', '.join(other.manifest.labels)}: "
                "an ensemble is of bundles that know the same classes in the same order",
                code="labels-differ",
            )
        if other.manifest.input.size_px != first.input.size_px:
            raise BundleError(
                f"{other.path}: expected an input of {first.input.size_px} px, got {other.manifest.input.size_px}",
                code="size-differs",
            )

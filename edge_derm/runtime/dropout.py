"""Monte-Carlo dropout on the deployed file: its prefix once, its suffix T times as one batch (see ``bundle.cut``)."""

from __future__ import annotations

import threading

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.bundle.cut import cut
from edge_derm.bundle.pixels import at_pixels
from edge_derm.errors import BundleError
from edge_derm.runtime.backends import load_engine
from edge_derm.runtime.encoding import encoder


class DropoutPasses:
    """T passes of one bundle under dropout masks drawn once: the same seed gives the same answer for an image, always.

    Batch norm is folded into the file's weights, so it stays in inference mode. Safe to share between threads.
    """

    def __init__(
        self,
        bundle: Bundle,
        passes: int,
        *,
        rate: float | None = None,
        depth: int | None = None,
        seed: int = 0,
        kernels: str = "default",
        threads: int = 1,
    ) -> None:
        """Cut the bundle's model and load both halves.

        Args:
            rate, depth: None takes what the model was trained with (the manifest's ``dropout``).

        Raises:
            BundleError: ``dropout-unknown``: the manifest does not say, and no rate is given.
            ModelError: ``cut-…``. BackendError.
        """
        rate, depth = dropout_of(bundle, rate, depth)
        parts = cut(bundle.model, rate=rate, depth=depth, passes=passes)
        shape = bundle.manifest.input
        self._prefix = load_engine(at_pixels(parts.prefix, shape), kernels=kernels, threads=threads)
        self._suffix = load_engine(parts.suffix, kernels=kernels, threads=threads)
        self._infer_prefix = self._prefix.bind(encoder(shape, self._prefix.inputs[0]))
        self._lock = threading.Lock()
        self.passes, self.rate, self.depth = passes, rate, depth
        drawn = draw_masks(parts.channels, passes, rate, parts.kept, parts.dtype, seed)
        shapes = [spec.shape for spec in self._suffix.inputs[1:]]
        self.masks = [mask.reshape(shape) for mask, shape in zip(drawn, shapes)]

    def stored(self, images: np.ndarray) -> np.ndarray:
        """The model's own scores in each pass, as its output tensor stores them.

        Args:
            images: uint8 [N, S, S, 3], preprocessed.

        Returns:
            [T, N, C].
        """
        with self._lock:
            rows = [self._one(images[number : number + 1]) for number in range(len(images))]
        if len(rows) == 1:
            return rows[0]
        made = self._suffix.outputs[0]
        return (
            np.concatenate(rows, axis=1) if rows else np.empty((self.passes, 0, made.shape[-1]), made.dtype)
        )

    def _one(self, image: np.ndarray) -> np.ndarray:
        """[T, 1, C] of one image [1, S, S, 3]."""
        return self._suffix.run(self._fill, self._infer_prefix(image))[0].reshape(self.passes, 1, -1)

    def _fill(self, activation: np.ndarray, view: np.ndarray, *masks: np.ndarray) -> None:
        np.copyto(view, activation)
        for mask, drawn in zip(masks, self.masks):
            np.copyto(mask, drawn)


def dropout_of(bundle: Bundle, rate: float | None, depth: int | None) -> tuple[float, int]:
    """Rate and depth to use: those given, else those the model was trained with."""
    trained = bundle.manifest.dropout
    if rate is None and trained is None:
        raise BundleError(
            f"{bundle.path}: expected a model trained with dropout, and its manifest does not tell of any: "
            "train and export it again, or give the rate it was trained with (--dropout P)",
            code="dropout-unknown",
        )
    if rate is None:
        assert trained is not None
        rate = trained.rate
    return rate, depth or (trained.depth if trained is not None else 1)


def draw_masks(
    channels: tuple[int, ...], passes: int, rate: float, kept: float, dtype: str, seed: int
) -> list[np.ndarray]:
    """One mask [T, channels] a site, ``kept`` or 0; the first pass of every T is the same, the second, …"""
    rng = np.random.default_rng(seed)
    draws = rng.random((passes, sum(channels))) >= rate
    return [(part * kept).astype(dtype) for part in np.split(draws, np.cumsum(channels)[:-1], axis=1)]

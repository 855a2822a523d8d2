"""``Classifier``: preprocessed pixels in, calibrated probabilities out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from edge_derm.bundle import Bundle, Calibration, Manifest, describe_model, open_bundle
from edge_derm.bundle.onnx import ROLE as ONNX_ROLE
from edge_derm.bundle.structure import check_interface, check_model
from edge_derm.bundle.pixels import at_pixels
from edge_derm.errors import BackendError, DataError
from edge_derm.runtime import decision
from edge_derm.runtime.backends import ONNX_BACKENDS, Engine, load_engine
from edge_derm.runtime.decision import Prediction
from edge_derm.runtime.encoding import Write, encoder
from edge_derm.runtime.scores import Scores

_PIXEL = np.dtype(np.uint8)


class Classifier:
    """A loaded model with its labels and its calibration. Open one with ``open`` or ``of``.

    Safe to share between threads: a lock lets one run at a time (results stay right, they do not get faster;
    for parallel throughput give each thread its own classifier, or raise ``threads``).

    Example::

        classifier = Classifier.open("lesion-d1.bundle")
        for prediction in classifier.classify([image]):
            print(prediction.label, prediction.probabilities[prediction.label])
    """

    def __init__(self, engine: Engine, manifest: Manifest, *, batch_engine: Engine | None = None) -> None:
        """Take loaded engines."""
        self._engine = engine
        self._batch_engine = batch_engine
        self._lock = threading.Lock()
        self._write = encoder(manifest.input, engine.inputs[0])
        self._infer = engine.bind(self._write)
        self.scores = Scores(engine.outputs[0], manifest)
        self._shape = (manifest.input.size_px, manifest.input.size_px, 3)
        self.manifest = manifest

    @classmethod
    def open(
        cls,
        bundle: Path | str | Bundle,
        *,
        backend: str = "litert",
        kernels: str = "default",
        threads: int = 1,
        batch: int = 1,
    ) -> Classifier:
        """Open a bundle (a path is verified first) on one engine.

        Args:
            backend: one of ``BACKENDS``; those that take ONNX need a bundle exported with ``--recipe onnx``.
            kernels: ``default`` (XNNPACK) or ``reference`` (bit-exact with TFLite Micro).
            threads: CPU threads inside one run.
            batch: above 1, full groups of this many images go through a second copy of the model at once:
                5–25 % less time an image on two threads, at the price of its memory; results are the same.

        Raises:
            BundleError: the bundle must not be loaded.
            BackendError: the engine is missing or refuses the model.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        model = _onnx_part(opened, backend) if backend in ONNX_BACKENDS else opened.model
        return cls._load(model, opened.manifest, backend, kernels, threads, batch)

    @classmethod
    def of(
        cls,
        model: bytes,
        labels: Sequence[str] | None = None,
        *,
        backend: str = "litert",
        kernels: str = "default",
        threads: int = 1,
        batch: int = 1,
    ) -> Classifier:
        """Open a bare .tflite after the structural check; normalisation from its metadata and quantisation.

        Args:
            labels: one per score; by default those in the file's TFLite Metadata, else ``class0``,
                ``class1``, ….
            backend, kernels, threads, batch: as for ``open``.

        Raises:
            BundleError: not a well-formed .tflite, or not an image classifier.
            BackendError: the engine is missing or refuses the model.
        """
        if backend in ONNX_BACKENDS:
            raise BackendError(
                f"backend {backend}: expected a bundle exported with --recipe onnx, got a bare .tflite",
                code="onnx-missing",
            )
        manifest = describe_model(model, labels=labels)
        check_interface(check_model(model), manifest)
        return cls._load(model, manifest, backend, kernels, threads, batch)

    @classmethod
    def _load(
        cls, model: bytes, manifest: Manifest, backend: str, kernels: str, threads: int, batch: int
    ) -> Classifier:
        if backend not in ONNX_BACKENDS:
            model = at_pixels(model, manifest.input)
        engines = [
            load_engine(model, backend=backend, kernels=kernels, threads=threads, batch=size)
            for size in ([1] if batch == 1 else [1, batch])
        ]
        return cls(engines[0], manifest, batch_engine=engines[1] if batch != 1 else None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the scores."""
        return self.manifest.labels

    @property
    def size_px(self) -> int:
        """Side of the square input."""
        return self.manifest.input.size_px

    @property
    def output_scale(self) -> float:
        """What one step of a quantised score is worth; 0.0 for a float output."""
        return self._engine.outputs[0].scale

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of preprocessed images.

        Args:
            images: uint8 [N, S, S, 3] RGB as ``edge_derm.data.preprocess`` returns them, or one [S, S, 3].

        Returns:
            float32 [N, C], rows summing to 1 (N = 1 for one image), after the manifest's calibration.

        Raises:
            DataError: ``images-dtype``, ``images-shape``.
        """
        return self.scores.probabilities(self.stored(images))

    def raw(self, images: np.ndarray) -> np.ndarray:
        """The model's own scores, dequantised, before temperature and normalisation: float32 [N, C]."""
        return self.scores.real(self.stored(images))

    def stored(self, images: np.ndarray) -> np.ndarray:
        """The model's own scores as its output tensor stores them: [N, C] of its dtype."""
        images = self.checked(images)
        if len(images) == 1:  # a camera's path: an inference has emptied the caches, every call counts
            with self._lock:
                scores = self._infer(images)
            return scores if scores.ndim == 2 else scores.reshape(1, -1)
        rows = [np.empty((0, len(self.labels)), self._engine.outputs[0].dtype)]
        with self._lock:
            for engine in filter(None, (self._batch_engine, self._engine)):
                group = engine.inputs[0].shape[0]
                while len(images) >= group:
                    rows.append(self._run(engine, images[:group]))
                    images = images[group:]
        return np.concatenate(rows)

    def stored_of_written(self, write: Callable[[Write, np.ndarray], None]) -> np.ndarray:
        """As ``stored``, [B, C], of a full batch that ``write(encode, tensor)`` itself puts into the tensor [B, S, S, 3].

        ``encode(images, out)`` writes uint8 images as the model stores them.
        """
        engine = self._batch_engine or self._engine
        with self._lock:
            scores = engine.run(lambda tensor: write(self._write, tensor))[0]
        return scores if scores.ndim == 2 else scores.reshape(len(scores), -1)

    def classify(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Decide on images of any size, preprocessed here.

        Args:
            images: uint8 RGB [H, W, 3] each.

        Raises:
            DataError: an image is not what ``preprocess`` takes.
        """
        if not len(images):
            return []
        from edge_derm.data import preprocess  # OpenCV: not needed, and not loaded, by those who predict only

        pixels = np.stack([preprocess(image, self.size_px) for image in images])
        return self.decide(self.predict(pixels))

    def named(self, p: np.ndarray) -> np.ndarray:
        """int64 [N]: the class that is named for each row of probabilities [N, C], as the manifest decides."""
        return decision.named(p, _weights(self.manifest))

    def decide(self, p: np.ndarray) -> list[Prediction]:
        """Predictions from probabilities [N, C], by the manifest's quantile and abstain threshold."""
        return decide_by(self.manifest, p)

    def _run(self, engine: Engine, images: np.ndarray) -> np.ndarray:
        scores = engine.run(self._write, images)[0]
        return scores if scores.ndim == 2 else scores.reshape(len(images), -1)

    def checked(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3], whatever ``predict`` takes; raises as it does."""
        if isinstance(images, np.ndarray) and images.dtype == _PIXEL and images.shape == self._shape:
            return images[np.newaxis]
        if not isinstance(images, np.ndarray) or images.dtype != _PIXEL:
            got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise DataError(
                f"images: expected a uint8 array, got {got}: pass pixels from preprocess, 0 to 255",
                code="images-dtype",
            )
        if images.ndim != 4 or images.shape[1:] != self._shape:
            side = self._shape[0]
            raise DataError(
                f"images: expected [N, {side}, {side}, 3], got {list(images.shape)}: use preprocess, or "
                "classify for images of any size",
                code="images-shape",
            )
        return images


def decide_by(manifest: Manifest, p: np.ndarray) -> list[Prediction]:
    """Predictions from probabilities [N, C], by what was calibrated into ``manifest``."""
    fitted = manifest.calibration or Calibration()
    return decision.decide(
        p,
        manifest.labels,
        conformal_quantile=fitted.class_quantiles or manifest.conformal_quantile,
        abstain_threshold=manifest.abstain_threshold,
        score=fitted.score,
        penalty=fitted.penalty,
        free_rank=fitted.free_rank,
        weights=fitted.weights,
    )


def _weights(manifest: Manifest) -> tuple[float, ...] | None:
    return None if manifest.calibration is None else manifest.calibration.weights


def _onnx_part(bundle: Bundle, backend: str) -> bytes:
    """The bundle's ONNX file."""
    name = bundle.named(ONNX_ROLE)
    if name is None:
        raise BackendError(
            f"{bundle.path}: backend {backend} runs a bundle's ONNX part, this one has none: export it with --recipe onnx",
            code="onnx-missing",
        )
    return bundle.part(name)

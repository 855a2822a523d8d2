"""What is inside a bundle's model for an image, read from the deployed file: its features and whether they are like those of the
images the bundle knows, or any tensor given as an output."""

from __future__ import annotations

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.bundle.cut import expose
from edge_derm.bundle.pixels import at_pixels
from edge_derm.runtime.backends import load_engine
from edge_derm.runtime.encoding import encoder
from edge_derm.runtime.known import Known


class Inside:
    """A bundle's model with a tensor of it as a second output; not for two threads at once."""

    def __init__(self, bundle: Bundle, model: bytes, *, kernels: str = "default", threads: int = 1) -> None:
        """Load ``model``: the bundle's own with that output (``bundle.cut``).

        Raises:
            BackendError.
        """
        shape = bundle.manifest.input
        self._engine = load_engine(at_pixels(model, shape), kernels=kernels, threads=threads)
        self._write = encoder(shape, self._engine.inputs[0])
        self._spec = self._engine.outputs[1]

    def of(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, …] of preprocessed images, uint8 [N, S, S, 3]; … is the tensor's own shape without its batch."""
        rows = [
            self._engine.run(lambda view, image=image: self._write(image[np.newaxis], view))[1][0]
            for image in images
        ]
        if not rows:
            return np.empty((0, *self._spec.shape[1:]), np.float32)
        stored = np.stack(rows)
        if stored.dtype.kind == "f":
            return stored
        return ((stored.astype(np.float32) - self._spec.zero_point) * self._spec.scale).astype(np.float32)


class Features(Inside):
    """What the classifier layer sees: the penultimate features."""

    def __init__(self, bundle: Bundle, *, kernels: str = "default", threads: int = 1) -> None:
        """Load it.

        Raises:
            ModelError: ``cut-no-head``. BackendError.
        """
        super().__init__(bundle, expose(bundle.model), kernels=kernels, threads=threads)

    def of(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, F] of preprocessed images, uint8 [N, S, S, 3]."""
        found = super().of(images)
        return found.reshape(len(found), int(np.prod(found.shape[1:])))


class Foreign:
    """Whether an image is far from all that a bundle knows; of a bundle that was never told what it knows, nothing."""

    def __init__(self, bundle: Bundle, *, kernels: str = "default") -> None:
        """Raises what ``Known.of`` and ``Features`` do."""
        self._known = Known.of(bundle)
        self._features = None if self._known is None else Features(bundle, kernels=kernels)

    def distance(self, pixels: np.ndarray) -> float | None:
        """Of one preprocessed image, uint8 [1, S, S, 3]; None: not known."""
        if self._known is None or self._features is None:
            return None
        return float(self._known.distances(self._features.of(pixels))[0])

    def is_foreign(self, distance: float) -> bool:
        """Whether that is farther than nearly all images of the kind it was calibrated on."""
        return self._known is not None and distance > self._known.threshold

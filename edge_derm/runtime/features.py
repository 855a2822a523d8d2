"""What the classifier layer of a bundle sees of an image: its penultimate features, read from the deployed file."""

from __future__ import annotations

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.bundle.cut import expose
from edge_derm.bundle.trim import without_sign_flip
from edge_derm.runtime.backends import load_engine
from edge_derm.runtime.encoding import encoder


class Features:
    """A bundle's model with its features as a second output; not for two threads at once."""

    def __init__(self, bundle: Bundle, *, kernels: str = "default", threads: int = 1) -> None:
        """Load it.

        Raises:
            ModelError: ``cut-no-head``. BackendError.
        """
        model = without_sign_flip(expose(bundle.model))
        self._engine = load_engine(model, kernels=kernels, threads=threads)
        self._write = encoder(bundle.manifest.input, self._engine.inputs[0])
        self._spec = self._engine.outputs[1]

    def of(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, F] of preprocessed images, uint8 [N, S, S, 3]."""
        rows = [
            self._engine.run(lambda view, image=image: self._write(image[np.newaxis], view))[1].ravel()
            for image in images
        ]
        if not rows:
            return np.empty((0, int(np.prod(self._spec.shape))), np.float32)
        stored = np.stack(rows)
        if stored.dtype.kind == "f":
            return stored
        return ((stored.astype(np.float32) - self._spec.zero_point) * self._spec.scale).astype(np.float32)

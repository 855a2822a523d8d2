"""Weight sharing: every kernel uses at most k distinct values (Han et al., 2016, https://arxiv.org/abs/1510.00149)."""

from __future__ import annotations

import keras
import numpy as np

from edge_derm.errors import ModelError

ROUNDS = 30


def cluster(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """One-dimensional k-means of ``values`` from centres spread evenly over their range.

    Returns:
        int32 of the shape of ``values``: the centre of each; float32 [≤ k] centres.
    """
    flat = values.astype(np.float64).ravel()
    centres = np.unique(np.linspace(flat.min(), flat.max(), k))
    for _ in range(ROUNDS):
        near = _nearest(flat, centres)
        counts = np.bincount(near, minlength=len(centres))
        sums = np.bincount(near, flat, minlength=len(centres))
        moved = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), centres))
        if np.array_equal(moved, centres):
            break
        centres = moved
    near = _nearest(flat, centres)
    return near.reshape(values.shape).astype(np.int32), centres.astype(np.float32)


def _nearest(flat: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, flat)


def cluster_kernels(model: keras.Model, k: int) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """A copy whose every convolution kernel holds at most ``k`` distinct weights, and which weight belongs to which.

    Raises:
        ModelError: ``cluster-count``.
    """
    if not 2 <= k <= 256:
        raise ModelError(f"clusters: expected 2 to 256, got {k}", code="cluster-count")
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    assignments = {}
    for layer in copy.layers:
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            continue
        kernel, *rest = layer.get_weights()
        assignments[layer.name], centres = cluster(kernel, k)
        layer.set_weights([centres[assignments[layer.name]], *rest])
    return copy, assignments

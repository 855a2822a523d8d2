"""A real, small, differentiable classifier in NumPy: softmax of a linear map of the pixels, with its gradient by hand."""

from __future__ import annotations

import numpy as np


class Linear:
    """``predict`` and ``gradient`` of softmax(W·(x − 128) + b) on float pixels [N, S, S, 3]."""

    def __init__(self, *, size_px: int = 6, classes: int = 4, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(0, 0.01, (classes, size_px * size_px * 3))
        self.bias = rng.normal(0, 0.1, classes)
        self.asked: list[np.ndarray] = []  # labels the gradient was asked for

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        scores = (pixels.reshape(len(pixels), -1).astype(np.float64) - 128) @ self.weights.T + self.bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def gradient(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(np.asarray(labels))
        p = self.predict(pixels)
        error = p - np.eye(len(self.bias))[labels]
        return p, (error @ self.weights).reshape(pixels.shape).astype(np.float32)

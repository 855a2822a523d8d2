"""One steady answer from many frames, without hiding that they disagree.

The shown probabilities are an exponential mean over the answered frames, forgotten after a pause. ``agreement`` is the
share of the last frames, each taken alone, whose label is the shown one; below ``STEADY`` the view says "unsteady".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

STEADY = 0.7


@dataclass(frozen=True)
class Smoothed:
    """``probabilities`` float [C]; ``agreement`` in [0, 1] of the last ``frames`` frames."""

    probabilities: np.ndarray
    agreement: float
    frames: int

    @property
    def steady(self) -> bool:
        """Whether the frames agree enough to show one label without a warning."""
        return self.agreement >= STEADY


class Smoother:
    """Exponential mean with weight ``rate`` for the newest of the frames less than ``pause_s`` apart.

    ``name`` tells the label of probabilities [C].
    """

    def __init__(
        self,
        *,
        rate: float = 0.2,
        window: int = 15,
        pause_s: float = 1.0,
        name: Callable[[np.ndarray], Any] = np.argmax,
    ) -> None:
        self._rate, self._pause_s, self._name = rate, pause_s, name
        self._labels: deque[Any] = deque(maxlen=window)
        self._mean: np.ndarray | None = None
        self._last_s = 0.0

    def add(self, probabilities: np.ndarray, now_s: float) -> Smoothed:
        """Take one frame's probabilities [C] at ``now_s`` and return what to show."""
        if self._mean is None or now_s - self._last_s > self._pause_s:
            self._mean = np.asarray(probabilities, np.float64)
            self._labels.clear()
        else:
            self._mean = self._mean + self._rate * (probabilities - self._mean)
        self._last_s = now_s
        self._labels.append(self._name(probabilities))
        shown = self._name(self._mean)
        agreement = sum(label == shown for label in self._labels) / len(self._labels)
        return Smoothed(self._mean, agreement, len(self._labels))

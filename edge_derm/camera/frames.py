"""What travels between the stages: a ``Frame`` with its time, and ``Slot``, the queue of one that joins two stages."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """One picture from a source.

    ``pixels`` uint8 BGR [H, W, 3]; ``number`` counts from 0 over the loop's life; ``taken_s`` on the loop's clock,
    when the source had given it; ``capture_ms``: how long the source took.
    """

    pixels: np.ndarray
    number: int
    taken_s: float
    capture_ms: float


class Slot(Generic[T]):
    """A bounded queue of one between two threads.

    ``lossless`` False: ``put`` never waits and the newest wins, what it overwrites is counted in ``dropped``.
    ``lossless`` True: ``put`` waits until the last item was taken (a recording loses nothing).
    """

    def __init__(self, *, lossless: bool = False) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._lossless = lossless
        self.closed = False
        self.dropped = 0

    def put(self, item: T) -> bool:
        """Offer ``item``; False once the slot is closed."""
        with self._changed:
            while self._lossless and self._item is not None and not self.closed:
                self._changed.wait()
            if self.closed:
                return False
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float | None = None) -> T | None:
        """The item, or None once the slot is closed and empty, or after ``timeout_s`` without one."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self.closed, timeout_s)
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Wake whoever waits; what is inside can still be taken."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

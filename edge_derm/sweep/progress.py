"""How far a sweep is, and how long it will take."""

from __future__ import annotations

import time
from typing import Callable, Sequence

from .cells import Outcome, Task


class Progress:
    """Says a line for each task that ends.

    The time left is that of the tasks left (trainings at the speed of those that ended, by pixels and width; cells at the mean
    of those that ended), divided by how many tasks were under way at a time so far.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        cells: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {task.name: task for task in tasks}
        self._cells, self._say, self._clock = cells, say, clock
        self._done = cells - sum(task.recipe is not None for task in tasks)
        self._spent = {True: 0.0, False: 0.0}  # seconds, by whether it was a training
        self._work = {True: 0.0, False: 0.0}
        self._busy, self._started = 0.0, clock()
        if self._done:
            say(f"{self._done} of {cells} cells are done already")

    def tell(self, outcome: Outcome) -> None:
        """Count a task that ended and say so."""
        task = self._left.pop(outcome.name)
        self._done += task.recipe is not None
        self._busy += outcome.seconds
        if outcome.error is None:
            self._spent[task.recipe is None] += outcome.seconds
            self._work[task.recipe is None] += work(task)
        left = self.left_s()
        rest = "" if left is None or not self._left else f"; about {duration(left)} left"
        what = f"failed: {outcome.error['message']}" if outcome.error else ended(task, outcome)
        self._say(f"[{self._done}/{self._cells}] {outcome.name}: {what}{rest}")

    def left_s(self) -> float | None:
        """Seconds left; None while nothing of a kind that is left has ended."""
        total = 0.0
        for training in (True, False):
            left = sum(work(task) for task in self._left.values() if (task.recipe is None) == training)
            if left and not self._work[training]:
                return None
            total += left and left * self._spent[training] / self._work[training]
        return total * (self._clock() - self._started) / self._busy if self._busy else None


def work(task: Task) -> float:
    """How much there is to do, in a unit of its kind."""
    return 1.0 if task.recipe else task.training.alpha * task.training.size_px**2


def ended(task: Task, outcome: Outcome) -> str:
    """What came out."""
    assert outcome.result is not None
    if task.recipe is None:
        accuracy = outcome.result["validation_accuracy"]
        return f"trained in {duration(outcome.seconds)}, validation accuracy {accuracy:.3f}"
    return f"accuracy {outcome.result['accuracy']:.3f}, {outcome.result['bytes']:,} bytes"


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

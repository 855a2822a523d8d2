"""What a sweep is made of: trainings, the cells that share one, and the tasks that are handed to workers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Mapping

RUNS, CELLS = "runs", "cells"


@dataclass(frozen=True, order=True)
class Training:
    """One network to train."""

    variant: str
    alpha: float
    size_px: int
    seed: int

    @property
    def name(self) -> str:
        """Names its folder: ``d1-a0.25-128px-s0``."""
        return f"{self.variant}-a{self.alpha:g}-{self.size_px}px-s{self.seed}"


@dataclass(frozen=True, order=True)
class Cell:
    """One row of the table: a training and the recipe it is exported with."""

    training: Training
    recipe: str

    @property
    def name(self) -> str:
        """Names its folder: ``d1-a0.25-128px-s0-int8``."""
        return f"{self.training.name}-{self.recipe}"

    @property
    def configuration(self) -> tuple[str, float, int, str]:
        """All but the seed."""
        return (self.training.variant, self.training.alpha, self.training.size_px, self.recipe)


@dataclass(frozen=True)
class Task:
    """A piece of work for one worker: a training (``recipe`` None), or a cell of a training that is finished.

    ``folder`` is the sweep's as the worker sees it; ``digest`` is that of the data it must find at ``data``;
    ``options`` are the grid's tables (``train``, ``bench``, ``evaluate``). ``threads`` are TensorFlow's for one operation: sums
    are added in another order with another number, so the last digits of a training depend on it and not on the cores there are.
    """

    training: Training
    recipe: str | None
    data: str
    digest: str
    folder: Path
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threads: int = 1

    @property
    def name(self) -> str:
        return self.training.name if self.recipe is None else Cell(self.training, self.recipe).name

    @property
    def after(self) -> str | None:
        """The name of the task that must be finished first."""
        return None if self.recipe is None else self.training.name

    @property
    def place(self) -> Path:
        """The task's own folder, below the sweep's."""
        return Path(RUNS if self.recipe is None else CELLS) / self.name

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps({**asdict(self), "folder": str(self.folder)})

    @staticmethod
    def loads(line: str) -> Task:
        """The task that ``dumps`` wrote."""
        value = json.loads(line)
        return Task(**{**value, "training": Training(**value["training"]), "folder": Path(value["folder"])})


@dataclass(frozen=True)
class Outcome:
    """How a task ended: a ``result``, or an ``error`` {code, message}; ``files`` where the worker shares no folder with us."""

    name: str
    seconds: float
    result: Mapping[str, Any] | None = None
    error: Mapping[str, str] | None = None
    files: Mapping[str, bytes] | None = None

    def dumps(self) -> str:
        """One line of JSON, without ``files``."""
        return json.dumps(asdict(replace(self, files=None)), allow_nan=False)

    @staticmethod
    def loads(line: bytes) -> Outcome:
        """The outcome that ``dumps`` wrote."""
        return Outcome(**json.loads(line))


def failed(name: str, code: str, message: str, seconds: float = 0.0) -> Outcome:
    """The outcome of a task that did not succeed; ``message`` becomes one line."""
    return Outcome(name, seconds, error={"code": code, "message": " ".join(message.split())})

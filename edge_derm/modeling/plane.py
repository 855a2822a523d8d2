"""The path over the information plane while a model is trained: a watcher that places it every few steps.

The estimator comes from outside (``trust.infoplane.describe``): this wing does not import that one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np

from edge_derm import files
from edge_derm.modeling import scoring
from edge_derm.modeling.session import Session

NAME = "plane.json"
SAMPLES = 500  # validation images a point of the path rests on: what it costs is looking at them


class Recorder:
    """Places the averaged model on validation images every ``every`` steps, and writes ``plane.json`` into the run's folder.

    An interrupted run goes on with the path it had; steps that are made again replace their points.

    Args:
        describe: (probabilities [N, C], targets [N]) → the point's figures, JSON values.
    """

    def __init__(
        self, out: Path, every: int, describe: Callable[[np.ndarray, np.ndarray], dict[str, Any]]
    ) -> None:
        self.path, self.every, self.describe = out / NAME, every, describe
        self.rows = (
            [] if not self.path.is_file() else json.loads(self.path.read_text(encoding="utf-8"))["path"]
        )

    def __call__(self, step: int, session: Session) -> None:
        """A ``session.Watcher``."""
        if step % self.every and step != 1:
            return
        started = time.monotonic()
        n = len(session.judged)
        chosen = np.sort(np.random.default_rng(0).permutation(n)[:SAMPLES])
        found = self.describe(
            scoring.probabilities(session.model, session.judged[chosen]), session.judged_targets[chosen]
        )
        row = {"step": step, "epoch": step / session.steps, **found, "seconds": time.monotonic() - started}
        self.rows = [*(old for old in self.rows if old["step"] < step), row]
        files.write_json(self.path, {"record": "plane", "every": self.every, "path": self.rows})

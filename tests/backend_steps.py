"""Run by ``test_backend`` under each backend: a few steps of a session from given weights; their losses and what is left of it.

python backend_steps.py START OUT.npz
"""

import sys
from pathlib import Path

import numpy as np

from edge_derm.data import open_dataset, split
from edge_derm.modeling import runs, stepping
from edge_derm.modeling.compression.tuning import Settings, Tuning, begin
from edge_derm.modeling.recipe import TrainConfig

RATE, KEPT, STEPS = 1e-5, 0.9, 5  # so small a rate that rounding does not grow into other weights


def session(start, dataset, parts):
    """With all there is: strided and plain dilation, attention, a teacher, shared weights, perturbations to harden against."""
    config = TrainConfig(
        size_px=32, dropout=0.0, attention=True, dilation={"conv1": 2, "dw1": 2}, harden=0.05
    )
    parent = runs.load(start)[0]
    settings = Settings(method="cluster", clusters=8)
    model, constraint = begin(parent, dataset.images(32, parts.parts["train"][:8]), settings)
    return Tuning(
        dataset, parts, config, start=model, teachers=[parent], settings=settings, constraint=constraint
    )


def main(start, out):
    dataset = open_dataset("synthetic:96")
    made = session(Path(start), dataset, split(dataset, seed=0))
    made.step = stepping.compiled(made)
    made.bank.begin(0)
    before = {"live_before": made.live.get_weights(), "average_before": made.model.get_weights()}
    made.step.load()
    batches = list(made.batches(0, 1))
    losses = [
        float(np.asarray(made.step(*batches[n % len(batches)], RATE, KEPT, n % 4))) for n in range(STEPS)
    ]
    made.step.store()
    parts = {**before, "live": made.live.get_weights(), "average": made.model.get_weights()}
    parts["bank"] = [np.asarray(made.bank.values)]
    named = {f"{name}.{i}": value for name, values in parts.items() for i, value in enumerate(values)}
    np.savez(out, losses=losses, iterations=int(made.optimizer.iterations), **named)


main(*sys.argv[1:])

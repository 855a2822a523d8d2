"""What does ``train --harden`` buy, and what does it cost?

    python benchmarks/hardening.py RUN HARDENED_RUN --data DIR [--images N] [--crafting N] [--out FILE.json]

Both float models are attacked anew, each by perturbations crafted on itself from the same training images (ζ = 4 %), and judged
on the same held-out images; the cost is the difference of their clean accuracies on those.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_derm import auditing, files
from edge_derm.cli.options import clean
from edge_derm.measure.environment import environment
from edge_derm.trust.evaluate import balanced
from edge_derm.trust.intervals import resample

NORMS, ZETA = (2.0, math.inf), 0.04


def main() -> None:
    """Measure, print the record, and write it if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=1197)
    parser.add_argument("--crafting", type=int, default=400)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    record = measure(asked)
    if asked.out:
        files.write_json(asked.out, clean(record))
    json.dump(clean(record), sys.stdout, indent=1)
    print()


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """The whole record."""
    models, answers = {}, {}
    for name, path in zip(("plain", "hardened"), asked.runs):
        subject, run = open_float(path)
        judged, sources = auditing.choose(subject, asked.data, None, "auto", asked.images, asked.crafting, 0)
        material = auditing.gather(subject, judged, sources, NORMS, ZETA, 2, 0)
        for norm in NORMS:
            material.crafted["training"].append(
                auditing.craft(subject, material, "training", norm, None, passes=asked.passes, seed=0)
            )
        answers[name] = subject.places["keras"](material.images.astype(np.float32))
        models[name] = {
            "epochs": len(run["history"]),
            "rows": auditing.replay(subject, material, ZETA, 0, print),
        }
    plain, hardened = answers["plain"], answers["hardened"]
    targets = material.targets
    return {
        "record": "hardening",
        "images": len(targets),
        "crafted_from": asked.crafting,
        "models": models,
        "cost": {
            "balanced_accuracy": resample(
                lambda i: balanced(plain[i], targets[i]) - balanced(hardened[i], targets[i]), judged.groups
            ),
            "accuracy": resample(
                lambda i: float((plain[i] == targets[i]).mean() - (hardened[i] == targets[i]).mean()),
                judged.groups,
            ),
        },
        "environment": environment(),
        "command": "python benchmarks/hardening.py RUN HARDENED_RUN --data DIR "
        f"--images {asked.images} --crafting {asked.crafting} --passes {asked.passes}",
    }


def open_float(path: Path) -> tuple[auditing.Subject, dict[str, Any]]:
    """The float model of a run alone."""
    from edge_derm.modeling import runs
    from edge_derm.modeling.gradients import Differentiable
    from edge_derm.origin import provenance_of

    model, run = runs.load(path)
    parent = Differentiable(model)
    places = {"keras": lambda pixels: parent.predict(pixels).argmax(axis=1)}
    return (
        auditing.Subject(parent, tuple(run["classes"]), parent.size_px, provenance_of(path, run), places),
        run,
    )


if __name__ == "__main__":
    main()

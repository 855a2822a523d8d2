"""What compression costs in decisions: bundles of one run against the saved Keras model, on both kernel families.

    edge-derm export RUN --recipe int8 --rounding nearest --out nearest.bundle
    edge-derm export RUN --recipe int8 --out reconstruct.bundle
    python benchmarks/compression.py RUN --data ham10000 --part validation \
        --bundle nearest=nearest.bundle --bundle reconstruct=reconstruct.bundle --out results/compression-d1.json

For each bundle: bytes, MACs, accuracy with the float model's beside it, agreement with a 95 % interval, calibration error of both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edge_derm import files, judging, steps
from edge_derm.bundle import open_bundle
from edge_derm.cli.options import clean
from edge_derm.measure.environment import environment
from edge_derm.runtime import Classifier
from edge_derm.selection import select
from edge_derm.trust import calibration, parity


def measure(run: Path, bundles: dict[str, Path], data: str, part: str) -> dict[str, Any]:
    """The record of all bundles of one run."""
    first = open_bundle(next(iter(bundles.values())))
    labels = first.manifest.labels
    chosen = select(data, part=part, provenance=first.manifest.provenance, labels=labels)
    targets = chosen.targets(labels)
    parent = judging.parent_probabilities(run, chosen, first)
    rows = [row(name, path, chosen, targets, parent) for name, path in bundles.items()]
    return {
        "record": "compression",
        "run": run.name,
        "part": chosen.part,
        "images": len(targets),
        "accuracy_float": float((parent.argmax(axis=1) == targets).mean()),
        "ece_float": ece(parent, targets),
        "rows": rows,
        "environment": environment(command=" ".join(sys.argv)),
    }


def row(name: str, path: Path, chosen: Any, targets: np.ndarray, parent: np.ndarray) -> dict[str, Any]:
    """One bundle's figures."""
    bundle = open_bundle(path)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    found = {
        family: Classifier.open(bundle, kernels=kernels).predict(pixels)
        for family, kernels in (("xnnpack", "default"), ("reference", "reference"))
    }
    figures = parity.compare(found, parent, targets, groups=chosen.groups)
    summary = steps.inspect(path)
    return {
        "bundle": name,
        "recipe": bundle.manifest.recipe,
        "size_bytes": summary["size_bytes"],
        "macs": summary["macs"],
        "parameters": summary["parameters"],
        "accuracy": figures["accuracy_deployed_by_kernels"],
        "accuracy_difference": figures["accuracy_difference"],
        "agreement": figures["agreement"],
        "agreement_intervals": figures["agreement_intervals"],
        "max_abs_probability_error": figures["max_abs_probability_error"],
        "ece": {family: ece(p, targets) for family, p in found.items()},
    }


def ece(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error of the decision."""
    return float(calibration.ece(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--part", default="validation")
    parser.add_argument("--bundle", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    bundles = {name: Path(path) for name, _, path in (entry.partition("=") for entry in given.bundle)}
    record = measure(given.run, bundles, given.data, given.part)
    files.write_json(given.out, clean(record))
    for entry in record["rows"]:
        print(
            f"{record['run']} {record['part']} {entry['bundle']}: {entry['size_bytes']:,} bytes, "
            f"agreement {entry['agreement']}, accuracy {entry['accuracy']} (float {record['accuracy_float']:.4f})"
        )


if __name__ == "__main__":
    main()

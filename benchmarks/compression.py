"""What compression gives and what it costs in decisions: files of trained runs against their saved Keras models.

    python benchmarks/compression.py --run runs/d1 --run runs/mobilenet --smaller runs/d1=runs/d1-qat \
        --data ham10000 --work FOLDER --out benchmarks/results/compression.json

A ``--run`` is exported by every recipe of RECIPES; a ``--smaller PARENT=RUN`` (what ``compress`` made) as the default int8 file,
and compared with its parent. For each file: bytes, MACs, arena and instructions on an emulated Cortex-M7 (int8 only; not a
time), seconds of export, and for each part of the data, on both kernel families: accuracy, its difference to the parent's,
agreement with a 95 % interval, calibration error beside the parent's. Bundles in ``--work`` are kept: the command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from edge_derm import files, inspecting, judging, making, using
from edge_derm.bundle import open_bundle
from edge_derm.errors import EdgeDermError
from edge_derm.measure.environment import environment
from edge_derm.origin import command_line
from edge_derm.records import clean
from edge_derm.runtime import Classifier
from edge_derm.selection import select
from edge_derm.trust import calibration, parity

RECIPES: dict[str, dict[str, Any]] = {
    "int8": {"recipe": "int8"},
    "int8-nearest": {"recipe": "int8", "rounding": "nearest"},
    "int16x8": {"recipe": "int16x8"},
    "dynamic": {"recipe": "dynamic"},
}
BOARD = "mcu:mps2-an500"
PARTS = ("validation", "test")
FAMILIES = {"xnnpack": "default", "reference": "reference"}


def exported(source: Path, name: str, work: Path, data: str) -> tuple[Path, float]:
    """The bundle of a run by one of RECIPES, and the seconds its export took when it was made."""
    out, note = work / f"{source.name}.{name}.bundle", work / f"{source.name}.{name}.json"
    if not note.is_file():
        started = time.monotonic()
        making.export(source, out, data=data, **RECIPES[name])
        files.write_json(note, {"seconds": time.monotonic() - started})
    return out, float(json.loads(note.read_text(encoding="utf-8"))["seconds"])


def row(parent: Path, source: Path, name: str, work: Path, data: str) -> dict[str, Any]:
    """One file's figures."""
    path, seconds = exported(source, name, work, data)
    summary = inspecting.inspect(path)
    kept = {key: summary[key] for key in ("size_bytes", "macs", "parameters")}
    whole = {"run": source.name, "parent": parent.name, "recipe": name, "export_seconds": seconds, **kept}
    return {**whole, **on_board(path, name), "parts": [judge(parent, path, data, part) for part in PARTS]}


def on_board(path: Path, name: str) -> dict[str, Any]:
    """Arena and instructions of an int8 file as generated C; null for other arithmetic and where tools are missing."""
    nothing = {"arena_bytes": None, "instructions": None, "board": None}
    if not name.startswith("int8"):
        return nothing
    try:
        record = using.bench(path, target=BOARD)
    except EdgeDermError as error:
        return {**nothing, "board_missing": str(error)}
    arena = record["memory"]["arena_bytes"]
    return {"arena_bytes": arena, "instructions": record["instructions"], "board": BOARD}


def judge(parent: Path, path: Path, data: str, part: str) -> dict[str, Any]:
    """A file against its float parent on one part of the data."""
    bundle = open_bundle(path)
    labels = bundle.manifest.labels
    chosen = select(data, part=part, provenance=bundle.manifest.provenance, labels=labels)
    targets, wanted = chosen.targets(labels), judging.parent_probabilities(parent, chosen, bundle)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    found = {
        family: Classifier.open(bundle, kernels=kernels).predict(pixels)
        for family, kernels in FAMILIES.items()
    }
    return figures(part, found, wanted, targets, chosen.groups)


def figures(
    part: str,
    found: Mapping[str, np.ndarray],
    wanted: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str],
) -> dict[str, Any]:
    """Probabilities [N, C] of both kernel families beside the parent's."""
    compared = parity.compare(found, wanted, targets, groups=groups)
    told = ("accuracy_difference", "agreement", "agreement_intervals", "max_abs_probability_error")
    return {
        "part": part,
        "images": len(targets),
        "accuracy_float": float((wanted.argmax(axis=1) == targets).mean()),
        "accuracy": compared["accuracy_deployed_by_kernels"],
        **{key: compared[key] for key in told},
        "ece_float": ece(wanted, targets),
        "ece": {family: ece(p, targets) for family, p in found.items()},
    }


def ece(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error of the decision."""
    return float(calibration.ece(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets))


def tell(entry: dict[str, Any]) -> str:
    """One file in one line."""
    alike = shares(entry["parts"])
    return f"{entry['run']} {entry['recipe']}: {entry['size_bytes']:,} bytes, decided as {entry['parent']}: {alike}"


def shares(parts: Sequence[Mapping[str, Any]]) -> str:
    """Of each part, how often it was decided alike, by kernel family."""
    return ", ".join(
        f"{part['part']} " + "/".join(f"{part['agreement'][family]:.4f}" for family in FAMILIES)
        for part in parts
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="append", type=Path, default=[])
    parser.add_argument("--smaller", action="append", default=[], metavar="PARENT=RUN")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="of each --run (default: all)")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    wanted = [(run, run, name) for run in given.run for name in given.recipe or RECIPES]
    for entry in given.smaller:
        parent, _, source = entry.partition("=")
        wanted.append((Path(parent), Path(source), "int8"))
    rows: list[dict[str, Any]] = []
    for of, run, name in wanted:
        rows.append(row(of, run, name, given.work, given.data))
        print(tell(rows[-1]), flush=True)
        command = f"python benchmarks/{command_line(folders=False)}"
        told = {"record": "compression", "rows": rows, "environment": environment(command=command)}
        files.write_json(given.out, clean(told))


if __name__ == "__main__":
    main()

"""Does ai-edge-quantizer make better files of our networks than ``export`` does?

    python -m venv AEQ && AEQ/bin/pip install ai-edge-quantizer==0.10.0
    python benchmarks/export_vs_quantizer.py --quantizer AEQ/bin/python --run runs/d1 --run runs/mobilenet --data ham10000 \
        --work FOLDER --out benchmarks/results/export_vs_quantizer.json

Each run is exported here by the recipes of ``compression.py``, and its float32 .tflite is given to the tool (``quantizer.py``, in
its own Python) with the same calibration images. Besides, the tool gets what stands behind our own int8 files as float32: the
network after levelling, after all our preparation, and with its weights alone on their int8 grid. All files are judged by the same
code on the same images with both kernel families, against the saved Keras model. Sizes are with the labels and the normalisation
that every bundle's file holds. Files in ``--work`` are kept: the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from compression import FAMILIES, PARTS, RECIPES, exported, figures, shares

from edge_derm import files, judging, making
from edge_derm.bundle import Bundle, embed_metadata, open_bundle
from edge_derm.errors import EdgeDermError
from edge_derm.measure.environment import environment
from edge_derm.origin import command_line
from edge_derm.records import clean
from edge_derm.runtime import Classifier
from edge_derm.selection import select
from firmware_bridge.tflite import parse

WORKER = Path(__file__).with_name("quantizer.py")
# What the tool is given, and the recipes it then follows: of the network as it is, all that it has for such a network.
GIVEN: dict[str, tuple[str, ...]] = {
    "network": (
        *("static-averaged", "static", "static-octav", "static-mse", "static-gptq"),
        *("static16", "dynamic", "weights"),
    ),
    "levelled": ("static",),
    "prepared": ("static",),
    "rounded": ("static16", "dynamic"),
}


@dataclass(frozen=True)
class Judged:
    """Images that files are judged on: uint8 [N, S, S, 3], their classes, and the parent's probabilities [N, C]."""

    part: str
    pixels: np.ndarray
    targets: np.ndarray
    wanted: np.ndarray
    groups: Sequence[str]


def judged(parent: Path, bundle: Bundle, data: str) -> list[Judged]:
    """The parts of the data that the run was not trained on."""
    labels, found = bundle.manifest.labels, []
    for part in PARTS:
        chosen = select(data, part=part, provenance=bundle.manifest.provenance, labels=labels)
        wanted = judging.parent_probabilities(parent, chosen, bundle)
        pixels = chosen.pixels(bundle.manifest.input.size_px)
        found.append(Judged(part, pixels, chosen.targets(labels), wanted, chosen.groups))
    return found


def describe(model: bytes, parts: Sequence[Judged]) -> dict[str, Any]:
    """Size and figures of one .tflite with its normalisation inside; ``missing`` says why where it does not run here."""
    kinds = {tensor.dtype for tensor in parse(model).tensors}
    row = {"size_bytes": len(model), "integer": not kinds & {"float32", "float16"}}
    try:
        running = {family: Classifier.of(model, kernels=kernels) for family, kernels in FAMILIES.items()}
    except EdgeDermError as error:
        return {**row, "missing": str(error)}
    rows = []
    for part in parts:
        found = {family: classifier.predict(part.pixels) for family, classifier in running.items()}
        rows.append(figures(part.part, found, part.wanted, part.targets, part.groups))
    return {**row, "parts": rows}


def given(run: Path, folder: Path, data: str) -> Path:
    """The float32 .tflite of each of GIVEN, and the calibration images, made where they are not there yet."""
    from edge_derm.modeling import export, runs
    from edge_derm.modeling.compression import quantise
    from edge_derm.modeling.compression.chain import fold, unfold

    if (folder / "images.npy").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    model, record = runs.load(run)
    pixels = making.calibration_images(run, record, data, export.input_size(model), needed=True, seed=0)
    assert pixels is not None
    models = {
        "network": model,
        "levelled": unfold(model, quantise.level(fold(model), pixels)[0]),
        "prepared": quantise.prepare(model, pixels).model,
        "rounded": quantise.prepare_weights(model, pixels),
    }
    for name, made in models.items():
        (folder / f"{name}.tflite").write_bytes(export.export(made, recipe="float32").model)
    np.save(folder / "images.npy", pixels)
    return folder


def quantised(python: Path, folder: Path, name: str) -> dict[str, Any]:
    """The tool's answer for one of GIVEN; its files then lie in ``folder/name``."""
    note, made = folder / f"{name}.json", folder / name
    if not note.is_file():
        made.mkdir(exist_ok=True)
        command = [python, WORKER, folder / f"{name}.tflite", folder / "images.npy", made, *GIVEN[name]]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"{python}: expected a Python with ai-edge-quantizer (--quantizer), got "
                f"{(done.stderr.strip().splitlines() or ['no answer'])[-1]}"
            )
        files.write_json(note, json.loads(done.stdout.splitlines()[-1]))
    return dict(json.loads(note.read_text(encoding="utf-8")))


def rows_of(run: Path, work: Path, data: str, python: Path) -> tuple[list[dict[str, Any]], str]:
    """All files of one run, ours first, and the tool's version."""
    bundles = {name: exported(run, name, work, data) for name in RECIPES}
    bundle = open_bundle(bundles["int8"][0])
    folder = given(run, work / f"{run.name}.given", data)
    answers = {source: quantised(python, folder, source) for source in GIVEN}
    rows: list[dict[str, Any]] = []
    parts = functools.cache(lambda: judged(run, bundle, data))  # not needed where all was judged before

    def judge(by: str, source: str, name: str, model: Path, answer: dict[str, Any]) -> None:
        note = folder / f"{by}.{source}.{name}.json"
        if not note.is_file():
            told = {}
            if "missing" not in answer:
                known = embed_metadata(model.read_bytes(), labels=bundle.manifest.labels)
                told = describe(known, parts())
            head = {"run": run.name, "by": by, "given": source, "recipe": name}
            files.write_json(note, clean({**head, **answer, **told}))
        rows.append(json.loads(note.read_text(encoding="utf-8")))
        print(tell(rows[-1]), flush=True)

    for name, (path, _) in bundles.items():
        judge("edge-derm", "network", name, path / "model.tflite", {})
    for source, names in GIVEN.items():
        for name in names:
            model = folder / source / f"{name}.tflite"
            judge("ai-edge-quantizer", source, name, model, answers[source]["made"][name])
    return rows, answers["network"]["version"]


def tell(row: dict[str, Any]) -> str:
    """One file in one line."""
    who = f"{row['run']} {row['by']} {row['given']} {row['recipe']}"
    if "missing" in row:
        return f"{who}: {row['missing']}"
    return f"{who}: {row['size_bytes']:,} bytes, decided as in float: {shares(row['parts'])}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quantizer", type=Path, required=True, help="a Python that has ai-edge-quantizer")
    parser.add_argument("--run", action="append", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for run in asked.run:
        found, version = rows_of(run, asked.work, asked.data, asked.quantizer)
        rows += found
        command = f"python benchmarks/{command_line(folders=False)}"
        told = {
            "record": "export_vs_quantizer",
            "rows": rows,
            "versions": {"ai-edge-quantizer": version},
            "environment": environment(command=command),
        }
        files.write_json(asked.out, clean(told))


if __name__ == "__main__":
    main()

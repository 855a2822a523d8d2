"""The reference models, rebuilt from data and seed, and what they are worth on lesions that nothing was chosen on.

    python benchmarks/reference.py --data HAM10000 --weights mobilenet_2_5_224_tf_no_top.h5 \
        --teacher-weights mobilenet_v1_0.5_160_quant.tflite --work FOLDER --json benchmarks/results/reference.json

Four runs, each a folder in ``--work`` that is gone on with where it was stopped: ``small`` (d1, α = 0.25, 128 px), ``wide``
(MobileNet, α = 0.5, 160 px: the second point, and a teacher), ``student`` (``small`` tuned at 192 px with both as teachers)
and ``reference`` (``student`` tuned at 224 px with all three): the same bytes, more pixels. An int8 bundle of each. A fifth
of the lesions is held out of all of it; on those the float models and the int8 files (both kernel families) are judged, with
bootstrap intervals over lesions. Which epoch of a run is kept was chosen on
its validation part. ``--given small=RUN`` takes a finished run instead of training it; ``--quick`` does
all of it on drawn pictures in minutes, to try the command.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from edge_derm import judging, steps
from edge_derm.bundle import Bundle, open_bundle
from edge_derm.files import write_json
from edge_derm.measure.environment import environment
from edge_derm.modeling import runs
from edge_derm.records import clean
from edge_derm.runtime import Classifier
from edge_derm.selection import Selection, select
from edge_derm.trust.evaluate import figures

HOLD_OUT, SEED = 0.2, 0
SIZES = {"small": 128, "wide": 160, "student": 192, "reference": 224}
EPOCHS = {"small": 30, "wide": 20, "student": 10, "reference": 5}
QUICK_SIZES = {"small": 32, "wide": 32, "student": 32, "reference": 64}
QUICK_EPOCHS = dict.fromkeys(EPOCHS, 1)
KERNELS = {"xnnpack": "default", "reference": "reference"}
KEPT = (
    "variant",
    "dilation",
    "alpha",
    "size_px",
    "parameters",
    "macs",
    "best_epoch",
    "validation",
    "seconds",
    "versions",
)


def build(
    work: Path, spec: str, weights: dict[str, Path | None], given: dict[str, Path], *, quick: bool
) -> dict[str, Path]:
    """The run folders of the four models; what is finished already is not made again."""
    sizes, epochs = (QUICK_SIZES, QUICK_EPOCHS) if quick else (SIZES, EPOCHS)
    folders = {name: given.get(name, work / name) for name in SIZES}
    networks: dict[str, dict[str, Any]] = {
        "small": {"variant": "d1", "alpha": 0.25},
        "wide": {"variant": "mobilenet", "alpha": 0.25 if quick else 0.5},
    }
    for name, network in networks.items():
        if name not in given:
            options = {
                "size_px": sizes[name],
                "epochs": epochs[name],
                "weights": weights[name],
                "hold_out": HOLD_OUT,
            }
            steps.train(spec, folders[name], seed=SEED, **network, **options)
    teachers = ["small", "wide"]
    for parent, name in (("small", "student"), ("student", "reference")):
        if name not in given:
            steps.compress(
                folders[parent],
                folders[name],
                seed=SEED,
                method="distill",
                size_px=sizes[name],
                teachers=tuple(str(folders[teacher]) for teacher in teachers),
                epochs=epochs[name],
            )
        teachers.append(name)
    return folders


def bundle_of(work: Path, name: str, run: Path) -> Bundle:
    """The int8 bundle of a run, made anew where it is missing or older than the run."""
    path, stamp = work / f"{name}.bundle", run / runs.RECORD
    if path.is_dir() and path.stat().st_mtime < stamp.stat().st_mtime:
        shutil.rmtree(path)
    if not path.is_dir():
        steps.export(run, path, recipe="int8", seed=SEED)
    return open_bundle(path)


def judge(run: Path, bundle: Bundle, spec: str) -> dict[str, Any]:
    """What the run's own record says, and the figures of the float model and of the file on the lesions held out."""
    record = runs.load(run)[1]
    labels = bundle.manifest.labels
    chosen = select(spec, part="test", provenance=bundle.manifest.provenance, labels=labels, seed=SEED)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    scores = {"float": judging.parent_probabilities(run, chosen, bundle)}
    for name, kernels in KERNELS.items():
        scores[f"int8_{name}"] = Classifier.open(bundle, kernels=kernels).predict(pixels)
    decided = {name: p.argmax(axis=1) for name, p in scores.items()}
    return {
        **{key: record.get(key) for key in KEPT},
        "epochs": len(record["history"]),
        "bytes": (bundle.path / "model.tflite").stat().st_size,
        "images": len(pixels),
        "test": {name: worth(p, chosen, labels) for name, p in scores.items()},
        "agreement": {name: float((decided[f"int8_{name}"] == decided["float"]).mean()) for name in KERNELS},
    }


def worth(p: Any, chosen: Selection, labels: Any) -> dict[str, Any]:
    """Accuracy, balanced accuracy and the AUROC of each class, with 95 % intervals."""
    told = figures(p, chosen.targets(labels), labels, chosen.groups, seed=SEED)
    return {key: told[key] for key in ("accuracy", "balanced_accuracy", "auroc")}


def parse_given(context: Any, parameter: Any, values: tuple[str, ...]) -> dict[str, Path]:
    found = dict(value.split("=", 1) for value in values if "=" in value)
    if len(found) != len(values) or set(found) - set(SIZES):
        raise click.BadParameter(
            f"expected NAME=RUN with a name out of {', '.join(SIZES)}, got {', '.join(values)}"
        )
    return {name: Path(path) for name, path in found.items()}


def without_folders(argument: str) -> str:
    """``small=/home/me/runs/d1`` → ``small=d1``: where a file lay is nobody's business."""
    return re.sub(r"(^|=)/(?:[^/]+/)*", r"\1", argument)


@click.command()
@click.option("--data", default="synthetic:1200", show_default=True)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="ImageNet weights of α = 0.25 (.h5 or .tflite)."
)
@click.option(
    "--teacher-weights", type=click.Path(path_type=Path), help="ImageNet weights of α = 0.5 (.tflite)."
)
@click.option(
    "--given", multiple=True, callback=parse_given, metavar="NAME=RUN", help="A finished run to take."
)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Finished steps are kept here.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record here.")
@click.option("--quick", is_flag=True, help="Tiny networks, one epoch each: tries the command in minutes.")
def main(
    data: str,
    weights: Path | None,
    teacher_weights: Path | None,
    given: dict[str, Path],
    work: Path,
    json_file: Path | None,
    quick: bool,
) -> None:
    folders = build(work, data, {"small": weights, "wide": teacher_weights}, given, quick=quick)
    models = {}
    for name in SIZES:
        models[name] = row = judge(folders[name], bundle_of(work, name, folders[name]), data)
        told = row["test"]["int8_xnnpack"]["balanced_accuracy"]
        click.echo(
            f"{name}: α={row['alpha']} {row['size_px']} px, {row['bytes']:,} bytes, {row['macs'] / 1e6:.1f} M MACs; "
            f"{row['images']} images held out: balanced accuracy {told['value']:.3f} ({told['low']:.3f}–{told['high']:.3f}), "
            f"agreement with float {row['agreement']['xnnpack']:.3f}"
        )
    record = {
        "record": "reference",
        "seed": SEED,
        "quick": quick,
        "given": sorted(given),
        "models": models,
        "environment": environment(
            command=" ".join(["python", "benchmarks/reference.py", *map(without_folders, sys.argv[1:])])
        ),
    }
    if json_file is not None:
        write_json(json_file, clean(record))


if __name__ == "__main__":
    main()

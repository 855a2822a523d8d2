"""The reference models, rebuilt from data and seed, and what they are worth on lesions held out.

    python benchmarks/reference.py --data HAM10000 --weights mobilenet_2_5_224_tf_no_top.h5 \
        --teacher-weights mobilenet_v1_0.5_160_quant.tflite --work FOLDER --json benchmarks/results/reference.json

Four runs, each a folder in ``--work`` that is gone on with where it was stopped: ``small`` (d1, α = 0.25, 128 px), ``wide``
(MobileNet, α = 0.5, 160 px: a teacher), ``student`` (``small`` tuned at 192 px with both as teachers: the same bytes, more
pixels) and ``second`` (``wide`` tuned at 192 px with the first three: the second point). An int8 bundle of each.

A fifth of the lesions is held out of all of it; on those the float models and the int8 files (both kernel families) are judged,
with bootstrap intervals over lesions, and the file also as ``predict --tta 8`` and as ``calibrate`` (fitted on the validation
part) would have it. That the last epoch is kept was decided with images of these splits in view (docs/training.md), all else on
validation parts. ``--splits 0,1,2`` does it again with other lesions held out (and everything else drawn anew): the record then
holds the mean over splits, with Student's interval, which is what another split would give. ``--train-only`` stops before the
bundles: for a machine with a GPU and ``KERAS_BACKEND=jax``, from which the folder is carried to one that exports.
``--hold-out 0`` trains on all lesions, for a release: nothing is judged. ``--given small=RUN`` takes a finished run instead of
training it; ``--quick`` does all of it on drawn pictures in minutes, to try the command.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Mapping

import click
from heldout import judge, over_splits

from edge_derm import making
from edge_derm.bundle import Bundle, open_bundle
from edge_derm.files import write_json
from edge_derm.measure.environment import environment
from edge_derm.modeling import runs
from edge_derm.origin import command_line
from edge_derm.records import clean

HOLD_OUT = 0.2


@dataclass(frozen=True)
class Step:
    """One run: trained as ``network`` from the ImageNet weights of that name, or tuned from ``parent`` with ``teachers``."""

    size_px: int
    epochs: int
    network: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    parent: str = ""
    teachers: tuple[str, ...] = ()


RUNS = {
    "small": Step(128, 30, {"variant": "d1", "alpha": 0.25}, "narrow"),
    "wide": Step(160, 20, {"variant": "mobilenet", "alpha": 0.5}, "wide"),
    "student": Step(192, 20, parent="small", teachers=("small", "wide")),
    "second": Step(192, 20, parent="wide", teachers=("small", "wide", "student")),
}


def quick(step: Step) -> Step:
    """The same step, tiny."""
    network = {**step.network, "alpha": 0.25} if step.network else {}
    return replace(step, size_px=step.size_px // 96 * 32, epochs=1, network=network)


def build(
    plan: Mapping[str, Step],
    work: Path,
    spec: str,
    weights: Mapping[str, Path | None],
    given: Mapping[str, Path],
    *,
    seed: int,
    hold_out: float,
) -> dict[str, Path]:
    """The run folders; what is finished already is not made again."""
    folders = {name: given.get(name, work / name) for name in plan}
    for name, step in plan.items():
        if name in given:
            continue
        options: dict[str, Any] = {"seed": seed, "size_px": step.size_px, "epochs": step.epochs}
        if step.parent:
            teachers = tuple(str(folders[teacher]) for teacher in step.teachers)
            making.compress(
                folders[step.parent], folders[name], data=spec, method="distill", teachers=teachers, **options
            )
        else:
            start = weights[step.weights]
            making.train(spec, folders[name], weights=start, hold_out=hold_out, **step.network, **options)
    return folders


def bundle_of(work: Path, name: str, run: Path, spec: str, seed: int) -> Bundle:
    """The int8 bundle of a run, made anew where it is missing or older than the run."""
    path, stamp = work / f"{name}.bundle", run / runs.RECORD
    if path.is_dir() and path.stat().st_mtime < stamp.stat().st_mtime:
        shutil.rmtree(path)
    if not path.is_dir():
        making.export(run, path, data=spec, recipe="int8", seed=seed)
    return open_bundle(path)


def judged(work: Path, name: str, run: Path, bundle: Bundle, spec: str, seed: int) -> dict[str, Any]:
    """``judge``'s figures, counted anew where they are missing or older than the bundle; after a change to the code that judges,
    remove ``*.judged.json``."""
    kept = work / f"{name}.judged.json"
    if not kept.is_file() or kept.stat().st_mtime < bundle.path.stat().st_mtime:
        write_json(kept, clean(judge(run, bundle, spec, seed)))
    return dict(json.loads(kept.read_text("utf-8")))


def parse_given(context: Any, parameter: Any, values: tuple[str, ...]) -> dict[str, Path]:
    found = dict(value.split("=", 1) for value in values if "=" in value)
    if len(found) != len(values) or set(found) - set(RUNS):
        raise click.BadParameter(
            f"expected NAME=RUN with a name out of {', '.join(RUNS)}, got {', '.join(values)}"
        )
    return {name: Path(path) for name, path in found.items()}


def parse_splits(context: Any, parameter: Any, value: str) -> list[int]:
    seeds = value.split(",")
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) != len(seeds):
        raise click.BadParameter(f"expected seeds like 0,1,2, each once, got {value}")
    return [int(seed) for seed in seeds]


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
@click.option(
    "--splits",
    default="0",
    show_default=True,
    callback=parse_splits,
    help="Seeds; each holds other lesions out.",
)
@click.option("--hold-out", type=click.FloatRange(0, 0.5), default=HOLD_OUT, show_default=True)
@click.option("--train-only", is_flag=True, help="Stop before the bundles.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Finished steps are kept here.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record here.")
@click.option(
    "--quick", "tiny", is_flag=True, help="Tiny networks, one epoch each: tries the command in minutes."
)
def main(
    data: str,
    weights: Path | None,
    teacher_weights: Path | None,
    given: dict[str, Path],
    splits: list[int],
    hold_out: float,
    train_only: bool,
    work: Path,
    json_file: Path | None,
    tiny: bool,
) -> None:
    if json_file is not None and (train_only or not hold_out):
        raise click.UsageError(
            "--json: expected models to judge, got --train-only or --hold-out 0, which judge none"
        )
    plan = {name: quick(step) for name, step in RUNS.items()} if tiny else RUNS
    start = {"narrow": weights, "wide": teacher_weights}
    found = {}
    for number, seed in enumerate(splits):
        place = work if number == 0 else work / f"split-{seed}"
        taken = given if number == 0 else {}
        folders = build(plan, place, data, start, taken, seed=seed, hold_out=hold_out)
        if train_only:
            continue
        bundles = {name: bundle_of(place, name, folder, data, seed) for name, folder in folders.items()}
        if hold_out:
            found[seed] = {
                name: judged(place, name, folders[name], bundle, data, seed)
                for name, bundle in bundles.items()
            }
            tell(seed, found[seed])
    if train_only or not hold_out:
        return  # nothing is judged
    first, *_ = found.values()
    record = {
        "record": "reference",
        "seed": next(iter(found)),
        "quick": tiny,
        "given": sorted(given),
        "models": first,
        "splits": {str(seed): models for seed, models in found.items()} if len(found) > 1 else {},
        "over_splits": (
            {name: over_splits([models[name] for models in found.values()]) for name in first}
            if len(found) > 1
            else {}
        ),
        "environment": environment(command=f"python benchmarks/{command_line(folders=False)}"),
    }
    if json_file is not None:
        write_json(json_file, clean(record))


def tell(seed: int, models: Mapping[str, Mapping[str, Any]]) -> None:
    """A line a model."""
    for name, row in models.items():
        told = row["test"]["int8_xnnpack"]["balanced_accuracy"]
        click.echo(
            f"split {seed}, {name}: α={row['alpha']} {row['size_px']} px, {row['bytes']:,} bytes, "
            f"{row['macs'] / 1e6:.1f} M MACs; {row['images']} images held out: balanced accuracy "
            f"{told['value']:.3f} ({told['low']:.3f}–{told['high']:.3f}), "
            f"agreement with float {row['agreement']['xnnpack']:.3f}"
        )


if __name__ == "__main__":
    main()

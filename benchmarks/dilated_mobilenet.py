"""Does dilation in the shallow layers help, and does attention? The first source paper's experiment, on one's own data.

    python benchmarks/dilated_mobilenet.py --data ham10000=DIR --data caltech101=DIR --weights IMAGENET.h5 \
        --work FOLDER --json benchmarks/results/dilated_mobilenet.json [--cells N]

A cell is one data set × seed × arm: ``edge-derm train`` and ``edge-derm export --recipe int8`` by their own functions, then the
decisions of the float model and of the int8 file (XNNPACK kernels) on the part that neither trained nor chose anything. An arm
is a variant, or a dilation map such as ``conv1=2``, with ``+attention`` behind it where that is wanted. Arms of one seed share
split, start, order of batches and augmentation, so differences are paired. Finished cells are kept in ``--work``; the command
goes on where it was stopped, and ``--cells N`` stops after N new ones. The record is written from all cells that are there.

``--train-only`` exports nothing and compares the float models on the validation part: to search among many maps, the best of
which is then judged as above, or (``KERAS_BACKEND=jax``) for a machine with a GPU, from which ``--work`` is carried to one that
exports. ``--split S`` makes all seeds share the split of seed S, so that what is held out for the judgement chose no map.

Differences are arm − first arm (with attention: − the same without), twice: over seeds (mean with Student's 95 % interval: what
another training would give), and over images (seeds as they fell; bootstrap over lesions, all seeds together). Equal parameters
and MACs are asserted, in the runs and in the files.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

import click
import numpy as np
from dilation_search import RUN, screen, tell_search, trained
from students import mean

from edge_derm import files, inspecting, judging, making
from edge_derm.bundle import open_bundle
from edge_derm.cli.options import clean
from edge_derm.measure.environment import environment
from edge_derm.runtime import Classifier
from edge_derm.runtime.attention import Masks, collapse
from edge_derm.selection import select
from edge_derm.trust.evaluate import balanced
from edge_derm.trust.intervals import resample

ARMS = "mobilenet,d1,d2,d3,d1+attention"
WHERE = ("float", "int8")
METRICS = {
    "accuracy": lambda decided, targets: float((decided == targets).mean()),
    "balanced_accuracy": balanced,
}
MOST_OVERHEAD = 0.02  # of MACs, for attention


def train_choices(arm: str) -> dict[str, Any]:
    """``d1+attention`` or ``conv1=2+dw1=2`` as options of ``train``."""
    first, *more = arm.split("+")
    choices: dict[str, Any] = {"attention": True} if "attention" in more else {}
    rates = [part for part in (first, *more) if "=" in part]
    return {**choices, "dilation": ",".join(rates)} if rates else {**choices, "variant": first}


def train_cell(spec: str, arm: str, seed: int, folder: Path, **choices: Any) -> dict[str, Any]:
    """The record of a cell's run, trained unless it is there."""
    return making.train(spec, folder / "run", seed=seed, **train_choices(arm), **choices)


def run_cell(spec: str, arm: str, seed: int, folder: Path, **choices: Any) -> dict[str, Any]:
    """Train, export and judge one cell; its record, with every decision."""
    started, cpu = time.monotonic(), time.process_time()
    run = train_cell(spec, arm, seed, folder, **choices)
    if not (folder / "int8.bundle").is_dir():  # a cell that was stopped between export and judgement
        making.export(folder / "run", folder / "int8.bundle", data=spec, recipe="int8", seed=seed)
    bundle, file = open_bundle(folder / "int8.bundle"), inspecting.inspect(folder / "int8.bundle")
    labels = bundle.manifest.labels
    chosen = select(spec, part="test", provenance=bundle.manifest.provenance, labels=labels, seed=seed)
    pixels = chosen.pixels(run["size_px"])
    scores = {
        "float": judging.parent_probabilities(folder / "run", chosen, bundle),
        "int8": Classifier.open(bundle).predict(pixels),
    }
    return {
        "arm": arm,
        "seed": seed,
        "parameters": run["parameters"],
        "macs": run["macs"],
        "macs_file": file["macs"],
        "bytes_file": file["size_bytes"],
        "epochs": len(run["history"]),
        "best_epoch": run["best_epoch"],
        "validation": run["validation"],
        "digest": run["data"]["digest"],
        "parts": run["data"]["parts"],
        "targets": chosen.targets(labels),
        "groups": chosen.groups,
        "decided": {where: p.argmax(axis=1) for where, p in scores.items()},
        "mask": collapse(Masks(bundle).of(pixels)) if "attention" in arm else None,
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - cpu,
    }


def check_equal(cells: Sequence[dict[str, Any]]) -> None:
    """Dilation costs nothing and attention nearly nothing, in parameters and MACs, of the run and of the file."""
    plain = [cell for cell in cells if "attention" not in cell["arm"]]
    for key in ("parameters", "macs", "macs_file"):
        values = {cell[key] for cell in plain if key in cell}  # a cell that was only trained has no file
        assert len(values) <= 1, f"{key}: expected one value for all dilations, got {sorted(values)}"
    for cell in cells:
        assert cell["macs"] <= (1 + MOST_OVERHEAD) * plain[0]["macs"], f"{cell['arm']}: {cell['macs']} MACs"


def row(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell as the record keeps it: figures instead of decisions."""
    targets = np.asarray(cell["targets"])
    decided = {where: np.asarray(values) for where, values in cell["decided"].items()}
    kept = {key: value for key, value in cell.items() if key not in ("targets", "groups", "decided")}
    return {
        **kept,
        "images": len(targets),
        **{name: {w: of(decided[w], targets) for w in WHERE} for name, of in METRICS.items()},
        "agreement": float((decided["int8"] == decided["float"]).mean()),
    }


def summarise(cells: Sequence[dict[str, Any]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """One row an arm: mean of each metric over seeds, and the paired difference to what it is compared with."""
    rows = []
    for arm in arms:
        mine = {cell["seed"]: cell for cell in cells if cell["arm"] == arm}
        against = reference_of(arm, arms)
        first = {c["seed"]: c for c in cells if c["arm"] == against and c["seed"] in mine}
        pairs = [(mine[seed], first[seed]) for seed in sorted(first)]
        if not pairs:
            continue
        figures = {name: {where: compare(pairs, where, name) for where in WHERE} for name in METRICS}
        rows.append({"arm": arm, "against": against, "seeds": sorted(first), **figures})
    return rows


def reference_of(arm: str, arms: Sequence[str]) -> str:
    """What an arm is compared with: itself without attention, or the first arm."""
    plain = arm.removesuffix("+attention")
    return plain if plain != arm and plain in arms else arms[0]


def compare(
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], where: str, metric: str
) -> dict[str, Any]:
    """Mean over seeds; difference over seeds and over images."""
    for x, y in pairs:
        named = f"seed {x['seed']}: {x['arm']} and {y['arm']}"
        assert x["groups"] == y["groups"], f"{named} were judged on different images: give both one --split"
    of = METRICS[metric]
    a, b, targets = (
        [np.asarray(values) for values in column]
        for column in zip(*((x["decided"][where], y["decided"][where], x["targets"]) for x, y in pairs))
    )
    each = [of(p, t) - of(q, t) for p, q, t in zip(a, b, targets)]
    mine, other, truth = map(np.concatenate, (a, b, targets))
    groups = [name for cell, _ in pairs for name in cell["groups"]]
    return {
        "mean": float(np.mean([of(p, t) for p, t in zip(a, targets)])),
        "difference": mean(each),
        "difference_by_seed": each,
        "difference_of_images": resample(
            lambda i: float(of(mine[i], truth[i]) - of(other[i], truth[i])), groups
        ),
    }


def kept_cells(work: Path, name: str) -> list[dict[str, Any]]:
    """The finished cells of a data set."""
    found = sorted((work / name).glob("*/cell.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def record(
    work: Path,
    names: Sequence[str],
    arms: Sequence[str],
    choices: dict[str, Any],
    told: str,
    *,
    train_only: bool = False,
) -> dict[str, Any]:
    """All that is there, data set by data set; checked for equal costs."""
    sets = []
    for name in names:
        found = trained(work, name, choices) if train_only else kept_cells(work, name)
        cells = [cell for cell in found if cell["arm"] in arms]
        if not cells:
            continue
        check_equal(cells)
        compared = screen(cells, arms) if train_only else {"arms": summarise(cells, arms)}
        sets.append(
            {"data": name, **compared, "cells": cells if train_only else [row(cell) for cell in cells]}
        )
    return {
        "record": "dilation_search" if train_only else "dilated_mobilenet",
        **({"judged": "float model, validation part"} if train_only else {}),
        "recipe": choices,
        "sets": sets,
        "environment": environment(command=told),
    }


def plan(
    names: Sequence[str],
    seeds: Sequence[int],
    arms: Sequence[str],
    work: Path,
    finished: str = "cell.json",
) -> Iterator[tuple[str, int, str, Path]]:
    """The cells that are missing: data set by data set, seed by seed, all arms of a seed together."""
    for name in names:
        for seed in seeds:
            for arm in arms:
                folder = work / name / f"{arm}-{seed}"
                if not (folder / finished).is_file():
                    yield name, seed, arm, folder


def tell(result: dict[str, Any]) -> None:
    """The table for a terminal."""
    for one in result["sets"]:
        for arm in one["arms"]:
            for where in WHERE:
                shown = [f"{one['data']:11} {arm['arm']:14} {where:5} {len(arm['seeds'])} seeds"]
                for metric in METRICS:
                    found = arm[metric][where]
                    seeds, images = found["difference"], found["difference_of_images"]
                    low, high = (
                        f"{100 * v:+.1f}" if v is not None else "–" for v in (seeds["low"], seeds["high"])
                    )
                    shown.append(
                        f"{metric} {found['mean']:.3f} ({100 * seeds['value']:+.1f} points, seeds {low} to {high}, "
                        f"images {100 * images['low']:+.1f} to {100 * images['high']:+.1f})"
                    )
                click.echo("  ".join(shown))


@click.command()
@click.option("--data", multiple=True, required=True, metavar="NAME=DIR")
@click.option(
    "--weights", type=click.Path(path_type=Path, exists=True), help="ImageNet weights of this alpha."
)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Finished cells are kept here.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record here.")
@click.option("--arms", default=ARMS, show_default=True, help="The first is the reference.")
@click.option("--seeds", default="1,2,3", show_default=True)
@click.option("--size", "size_px", type=int, default=64, show_default=True)
@click.option("--alpha", type=float, default=0.25, show_default=True)
@click.option("--epochs", type=int, default=5, show_default=True)
@click.option(
    "--split", "split_seed", type=int, help="Seed of the split, for all seeds (default: each its own)."
)
@click.option(
    "--train-only", is_flag=True, help="Train, and compare float models on the validation part; no export."
)
@click.option("--cells", type=int, default=None, help="Stop after so many new cells (default: all).")
def main(
    data: Sequence[str],
    weights: Path | None,
    work: Path,
    json_file: Path | None,
    arms: str,
    seeds: str,
    train_only: bool,
    cells: int | None,
    **choices: Any,
) -> None:
    """Run the cells that are missing, and print the table of all; see the module's docstring."""
    specs = dict(entry.split("=", 1) for entry in data)
    listed = arms.split(",")
    choices = {**choices, "hold_out": 0.2}
    told = f"benchmarks/dilated_mobilenet.py --arms {arms} --seeds {seeds}{' --train-only' * train_only}"
    planned = [int(seed) for seed in seeds.split(",")]
    missing = list(plan(list(specs), planned, listed, work, RUN if train_only else "cell.json"))
    for name, seed, arm, folder in missing[:cells]:
        if train_only:
            cell = train_cell(specs[name], arm, seed, folder, weights=weights, **choices)
        else:
            cell = run_cell(specs[name], arm, seed, folder, weights=weights, **choices)
            files.write_json(folder / "cell.json", clean(cell))
        click.echo(f"{name} {arm} seed {seed}: {cell['seconds']:.0f} s", err=True)
    told_choices = {**choices, "weights": weights.name if weights else None}
    result = record(work, list(specs), listed, told_choices, told, train_only=train_only)
    if json_file:
        files.write_json(json_file, clean(result))
    (tell_search if train_only else tell)(result)
    click.echo(f"{len(missing) - len(missing[:cells])} cells left", err=True)


if __name__ == "__main__":
    sys.exit(main())

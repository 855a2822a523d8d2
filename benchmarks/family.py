"""Every variant × width × size × recipe: bytes, MACs, latency, instructions, arena, accuracy where data is given.

    python benchmarks/family.py --models DIR --instructions          # export and count: long; goes on where it stopped
    python benchmarks/family.py --models DIR --json FILE             # time them, with the counts that are there
    python benchmarks/family.py --run RUN … --data DIR --json FILE   # trained runs, with accuracy

Without ``--run`` the networks are untrained: what they cost does not depend on what they learnt, and no accuracy is claimed.
Latency: all models in turn in one process, round after round, one thread; the ratio is over the reference named in the record
(paired by round). Instructions of one inference, which do not depend on what else the machine does: on ``qemu:cortex-a72`` (int8
and float32) and on ``mcu:mps2-an500``, a Cortex-M7 (int8), else null with the reason. Arena: the plan of generated C, int8 only.
The Pareto front: fewest bytes, or milliseconds, against accuracy; without data, bytes against latency.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

import click
import numpy as np

from edge_derm import files, making
from edge_derm.bundle import Provenance, check_model, embed_metadata
from edge_derm.cli.options import clean
from edge_derm.errors import TargetError
from edge_derm.measure.benchmark import bootstrap
from edge_derm.measure.environment import environment
from edge_derm.report import page
from edge_derm.runtime import Classifier
from edge_derm.sweep.table import unbeaten
from edge_derm.trust.intervals import proportion
from firmware_bridge.graph import BridgeError
from firmware_bridge.plan import plan
from firmware_bridge.summary import summarize

RECIPES = ("float32", "float16", "dynamic", "int8", "int16x8")
TARGETS = {"instructions_arm64": "qemu:cortex-a72", "instructions_cortex_m7": "mcu:mps2-an500"}
COUNTED = {"qemu:cortex-a72": ("int8", "float32"), "mcu:mps2-an500": ("int8",)}
LABELS = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
BLOCK = 3


def untrained(about: dict[str, Any]) -> tuple[Any, np.ndarray]:
    """A network as it starts, its batch norms set by one batch so that every layer has something to say; and that batch."""
    import keras

    from edge_derm.modeling.architecture import build
    from edge_derm.modeling.stages import dilation_map

    keras.utils.set_random_seed(0)
    calibration = making.sample_pixels(about["size_px"])
    model = build(
        dilation_map(about["variant"]), alpha=about["alpha"], size_px=about["size_px"], classes=len(LABELS)
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(calibration.astype(np.float32) / 128 - 1, training=True)
    return model, calibration


def exports(
    folder: Path, about: dict[str, Any], recipes: Sequence[str], make: Callable[[], tuple[Any, np.ndarray]]
) -> list[dict[str, Any]]:
    """One row a recipe; files that ``folder`` lacks are exported from what ``make`` gives: model, calibration."""
    from edge_derm.modeling import export

    paths = {recipe: folder / f"{stem_of(about)}-{recipe}.tflite" for recipe in recipes}
    missing = [recipe for recipe in recipes if not paths[recipe].exists()]
    if missing:
        model, calibration = make()
    for recipe in missing:
        ranges = about.get("ranges")  # of a run trained with int8 simulated
        data = export.export(model, recipe=recipe, calibration=calibration, ranges=ranges).model
        files.write_bytes(paths[recipe], embed_metadata(data, labels=tuple(about["classes"])))
        click.echo(f"exported {paths[recipe].name}", err=True)
    return [row_of(paths[recipe], about, recipe) for recipe in recipes]


def row_of(path: Path, about: dict[str, Any], recipe: str) -> dict[str, Any]:
    """What the file itself tells."""
    data = path.read_bytes()
    graph = check_model(data)
    found = summarize(graph)
    return {
        **{key: about[key] for key in ("variant", "alpha", "size_px")},
        "recipe": recipe,
        "bytes": len(data),
        "macs": found.macs,
        "parameters": found.parameters,
        "operators": sum(found.operators.values()),
        "arena_bytes": arena(graph) if recipe == "int8" else None,
        "accuracy": None,
        "model": data,
        "path": path,
    }


def stem_of(about: dict[str, Any]) -> str:
    return f"{about['variant']}-{about['alpha']:g}-{about['size_px']}"


def arena(graph: Any) -> int | None:
    """Of the generated C; None where the network is not one it takes."""
    try:
        return plan(graph).arena_bytes
    except BridgeError:
        return None


def judge(rows: list[dict[str, Any]], chosen: Any, labels: Sequence[str]) -> None:
    """Accuracy with its interval into the rows of one run."""
    pixels, targets = chosen.pixels(rows[0]["size_px"]), chosen.targets(labels)
    for row in rows:
        decided = Classifier.of(row["model"]).predict(pixels).argmax(axis=1)
        row["accuracy"] = proportion(int((decided == targets).sum()), len(targets))


def trained(paths: Sequence[Path], data: str, recipes: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Rows of trained runs, calibrated on their training images and judged on what they were not trained on."""
    from edge_derm.modeling import runs
    from edge_derm.selection import select

    rows: list[dict[str, Any]] = []
    for number, path in enumerate(paths):
        model, record = runs.load(path)
        if not record:
            raise click.UsageError(f"--run {path}: expected the folder of a trained run, got a bare model")
        origin = Provenance(data_digest=record["data"]["digest"], split=record["data"]["split"])
        chosen = select(data, part="auto", provenance=origin, labels=record["classes"])
        own = folder / str(number)
        own.mkdir()
        known = data if chosen.part != "all" else None  # of other data nothing is calibrated
        found = exports(own, record, recipes, partial(with_calibration, model, path, record, known))
        judge(found, chosen, record["classes"])
        rows += [{**row, "run": path.name} for row in found]
    return rows


def with_calibration(
    model: Any, path: Path, record: dict[str, Any], data: str | None
) -> tuple[Any, np.ndarray]:
    """The model and images it was trained on."""
    found = making.calibration_images(path, record, data, record["size_px"], needed=True, seed=0)
    assert found is not None
    return model, found


def time_all(rows: list[dict[str, Any]], *, rounds: int) -> None:
    """Latency of every row, in turn, and its ratio to the first row."""
    calls = [call_of(row) for row in rows]
    taken = np.empty((rounds, len(rows), BLOCK))
    for i in range(-3, rounds):
        for k in range(len(rows)):
            at = (k + i) % len(rows)
            calls[at]()
            for j in range(BLOCK):
                start = time.perf_counter_ns()
                calls[at]()
                if i >= 0:
                    taken[i, at, j] = (time.perf_counter_ns() - start) / 1e6
    medians = np.median(taken, axis=2)
    for at, row in enumerate(rows):
        pairs = medians[:, [at, 0]]
        low, high = bootstrap(pairs, ratio)
        row["latency_ms"] = {
            "p50": float(np.median(taken[:, at])),
            "samples": taken[:, at].ravel().round(5).tolist(),
        }
        row["ratio"] = {"value": ratio(pairs), "low": low, "high": high}


def ratio(pairs: np.ndarray) -> float:
    """The median over rounds."""
    return float(np.median(pairs[:, 0] / pairs[:, 1]))


def call_of(row: dict[str, Any]) -> Callable[[], Any]:
    """``predict`` on one image of noise."""
    classifier = Classifier.of(row["model"])
    side = row["size_px"]
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return lambda: classifier.predict(image)


def count(rows: list[dict[str, Any]], *, wanted: bool) -> None:
    """Instructions on the emulated targets, from beside the model where they were counted before."""
    for row in rows:
        beside = row["path"].with_suffix(".json")
        known = json.loads(beside.read_text()) if beside.exists() else {}
        for key, target in TARGETS.items():
            value, reason = known.get(key), None
            if value is None:
                value, reason = counted(row, target, wanted=wanted)
            if value is not None:
                known[key] = value
                files.write_json(beside, known)
            row[key], row[f"{key}_reason"] = value, reason


def counted(row: dict[str, Any], target: str, *, wanted: bool) -> tuple[int | None, str | None]:
    """Instructions of one inference, or why there are none."""
    from edge_derm.measure import targets

    if row["recipe"] not in COUNTED[target]:
        return None, f"recipe {row['recipe']} is not counted on {target}"
    if not wanted:
        return None, "not asked for (--instructions)"
    try:
        found = targets.bench(row["path"], target=target)
    except (TargetError, BridgeError) as error:
        return None, str(error)
    if found["instructions"] is not None:
        click.echo(f"{name_of(row)} on {target}: {found['instructions']:,} instructions", err=True)
    return found["instructions"], found["instructions_reason"]


def mark_front(rows: list[dict[str, Any]]) -> dict[str, str]:
    """``pareto`` into every row; the two axes it is about."""
    judged = all(row["accuracy"] for row in rows)
    axes = {"cost": "latency_ms", "quality": "accuracy"} if judged else {"cost": "bytes", "quality": "speed"}
    for row in rows:
        row["speed"] = (
            1 / row["ratio"]["value"] if "ratio" in row else None
        )  # paired by round, unlike medians
    from edge_derm.report.measuring import cost, quality

    points = np.array([[-cost(row, axes["cost"]), quality(row, axes["quality"])] for row in rows])
    for row, best in zip(rows, unbeaten(points)):
        row["pareto"] = bool(best)
    return axes


def name_of(row: dict[str, Any]) -> str:
    run = f"{row['run']}: " if "run" in row else ""
    return f"{run}{row['variant']} α={row['alpha']:g} {row['size_px']} px {row['recipe']}"


def line(row: dict[str, Any]) -> str:
    """One row for a terminal."""
    accuracy = "–" if row["accuracy"] is None else f"{row['accuracy']['value']:.3f}"
    return (
        f"{'*' if row['pareto'] else ' '} {name_of(row):32} {row['bytes']:>10,} B {row['macs'] / 1e6:>7.2f} M MACs "
        f"{row['latency_ms']['p50']:.3f} ms (×{row['ratio']['value']:.3f}, {row['ratio']['low']:.3f}–{row['ratio']['high']:.3f}) "
        f"arm64 {millions(row['instructions_arm64'])}, Cortex-M7 {millions(row['instructions_cortex_m7'])}, "
        f"arena {row['arena_bytes'] or '–'}, accuracy {accuracy}"
    )


def millions(instructions: int | None) -> str:
    return "–" if instructions is None else f"{instructions / 1e6:.2f} M"


@click.command()
@click.option(
    "--run", "paths", type=click.Path(path_type=Path, exists=True), multiple=True, help="Trained runs."
)
@click.option("--data", help="Judge the runs on this.")
@click.option("--variants", default="mobilenet,d1,d2,d3", show_default=True)
@click.option("--alphas", default="0.25,0.5", show_default=True)
@click.option("--sizes", default="96,128,160", show_default=True)
@click.option("--recipes", default=",".join(RECIPES), show_default=True)
@click.option("--rounds", type=click.IntRange(20), default=60, show_default=True)
@click.option("--instructions", is_flag=True, help="Also count on the emulated targets (minutes).")
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    help="Keep untrained models and their counts here, and reuse them.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record here.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the table and the plot here, one HTML page."
)
def main(
    paths: Sequence[Path], data: str | None, json_file: Path | None, out: Path | None, **grid: Any
) -> None:
    """Print the family; see the module's docstring."""
    if paths and data is None:
        raise click.UsageError("--run needs --data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(grid["models"] or name)
        folder.mkdir(parents=True, exist_ok=True)
        if data:
            rows = trained(paths, data, grid["recipes"].split(","), Path(name))
        else:
            rows = grown(folder, **grid)
        count(rows, wanted=grid["instructions"])
    time_all(rows, rounds=grid["rounds"])
    result = {
        "record": "family",
        "trained": bool(paths),
        "reference": name_of(rows[0]),
        "axes": mark_front(rows),
        "rounds": grid["rounds"],
        "rows": [{key: value for key, value in row.items() if key not in ("model", "path")} for row in rows],
        "environment": environment(command="benchmarks/family.py"),
    }
    for row in rows:
        click.echo(line(row))
    if json_file:
        files.write_json(json_file, clean(result))
    if out:
        page.render([clean(result)], out)


def grown(
    folder: Path, *, variants: str, alphas: str, sizes: str, recipes: str, **rest: Any
) -> list[dict[str, Any]]:
    """Rows of the untrained grid."""
    rows: list[dict[str, Any]] = []
    for size_px in map(int, sizes.split(",")):
        for alpha in map(float, alphas.split(",")):
            for variant in variants.split(","):
                about = {"variant": variant, "alpha": alpha, "size_px": size_px, "classes": LABELS}
                rows += exports(folder, about, recipes.split(","), partial(untrained, about))
    return rows


if __name__ == "__main__":
    sys.exit(main())

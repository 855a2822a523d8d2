"""What do uncertainty and its measures cost, and what are they worth?

    python benchmarks/uncertainty.py BUNDLE [BUNDLE …] [--data D --ood D2] [--runs N] [--passes T] [--out FILE.json]

Cost: one deterministic ``Classifier.predict`` of one preprocessed image, one thread, against T Monte-Carlo passes with every
measure (dropout in the head, and in the last two blocks), and against 8 views with every measure on one and on two threads. All
of them run in turn in one process, ten calls at a time. A ratio is of the medians of all calls; stated is its mean over
``PROCESSES`` processes, one after the other, with Student's 95 % interval, and each: where things lie in memory moves it by a few
hundredths. ``naive_head`` runs the whole file and then the head T times in a Python loop. ``chrt -f 10`` before the command (as
root) holds other work back on a machine that is not quiet.

Worth (with ``--data``): ``edge-derm uncertainty`` on those images. The dropout rate is 0.2 where the bundle does not say. A bundle
goes into the record under the name of its folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
from apart import apart
from students import mean_of_each

from edge_derm import doubting, files
from edge_derm.bundle import Bundle, open_bundle
from edge_derm.cli.options import clean
from edge_derm.data import open_dataset
from edge_derm.measure.environment import environment
from edge_derm.origin import command_line
from edge_derm.runtime import Classifier
from edge_derm.runtime.measures import measures
from edge_derm.runtime.sampling import Sampler, Sampling

BLOCK = 10
PROCESSES = 7
TARGETS = {"mc_head": 1.25, "mc_last_2": 3.0, "tta_8": 8.0, "tta_8_two_threads": 4.5}


def calls(bundle: Bundle, passes: int, rate: float, pixels: np.ndarray) -> dict[str, Callable[[int], Any]]:
    """What is timed, by name; each takes the number of the image."""
    plain = Classifier.open(bundle)
    ways = {
        "mc_head": (Sampling(mc=passes, rate=rate, depth=1), 1),
        "mc_last_2": (Sampling(mc=passes, rate=rate, depth=2), 1),
        "tta_8": (Sampling(tta=8), 1),
        "tta_8_two_threads": (Sampling(tta=8), 2),
    }
    made: dict[str, Callable[[int], Any]] = {"deterministic": lambda i: plain.predict(pixels[i : i + 1])}
    for name, (way, threads) in ways.items():
        sampler = Sampler([bundle], way, threads=threads)
        made[name] = lambda i, sampler=sampler: measures(sampler.sample(pixels[i : i + 1]))  # type: ignore[misc]
    one = Sampler([bundle], Sampling(mc=1, rate=rate, depth=1))
    head = one._dropouts[0]

    def naive(i: int) -> Any:
        plain.predict(pixels[i : i + 1])
        activation = head._infer_prefix(pixels[i : i + 1])

        def write(view: np.ndarray, mask: np.ndarray) -> None:
            np.copyto(view, activation)
            np.copyto(mask, head.masks[0])

        return [head._suffix.run(write) for _ in range(passes)]

    made["naive_head"] = naive
    return made


def time_in_turn(made: dict[str, Callable[[int], Any]], images: int, runs: int) -> dict[str, np.ndarray]:
    """Milliseconds of each call, [runs · ``BLOCK``] of each, in blocks of calls in a row, as a camera makes them.

    Two rounds warm up; the order of the blocks turns by one each round.
    """
    names = list(made)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, runs):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            for k in range(BLOCK):
                start = time.perf_counter_ns()
                made[name]((turn + k) % images)
                if turn >= 0:
                    taken[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: np.array(values) for name, values in taken.items()}


def medians(path: Path, passes: int, rate: float, runs: int) -> dict[str, float]:
    """Milliseconds of each call, in this process."""
    bundle = open_bundle(path)
    pixels = open_dataset("synthetic:16").images(bundle.manifest.input.size_px)
    taken = time_in_turn(calls(bundle, passes, rate, pixels), len(pixels), runs)
    return {name: float(np.median(values)) for name, values in taken.items()}


def cost(path: Path, passes: int, rate: float, runs: int) -> dict[str, Any]:
    """Milliseconds of one inference, and every other call as a ratio to it."""
    found = apart(PROCESSES, medians, path, passes, rate, runs)
    plain = [row.pop("deterministic") for row in found]
    return {
        "deterministic_ms": mean_of_each(plain),
        "ratio": {
            name: mean_of_each([row[name] / one for row, one in zip(found, plain)]) for name in found[0]
        },
    }


def worth(path: Path, passes: int, rate: float, data: str, ood: str | None) -> dict[str, Any]:
    """What ``edge-derm uncertainty`` says of it, without the curves and without where the folders lie."""
    record = doubting.assess(path, data=data, ood=ood, mc=passes, dropout=rate)
    record.pop("risk_coverage")
    record["bundle"] = path.name
    if ood:
        record["ood"]["data"] = Path(ood).name
    return record


def tell(name: str, ratios: dict[str, Any]) -> None:
    """A line a way of asking, with its target."""
    for way, found in ratios.items():
        target = f", target {TARGETS[way]:g}" if way in TARGETS else ""
        spread = f"({found['low']:.3f} to {found['high']:.3f})"
        print(f"{name}, {way}: {found['value']:.3f} {spread} of one inference{target}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--data")
    parser.add_argument("--ood")
    parser.add_argument("--runs", type=int, default=40, help="Blocks of ten calls in each process.")
    parser.add_argument("--passes", type=int, default=32)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    bundles = {path.stem: open_bundle(path) for path in given.bundles}
    if len(bundles) < len(given.bundles):
        parser.error(f"expected bundles of different names, got {', '.join(map(str, given.bundles))}")
    models = {}
    for name, bundle in bundles.items():
        manifest = bundle.manifest
        rate = manifest.dropout.rate if manifest.dropout is not None else 0.2
        spent = cost(bundle.path, given.passes, rate, given.runs)
        tell(name, spent["ratio"])
        models[name] = {
            "variant": manifest.variant,
            "size_px": manifest.input.size_px,
            "recipe": manifest.recipe,
            "dropout_rate": rate,
            **spent,
        }
    for name, bundle in bundles.items():  # after all that is timed: it warms the machine
        if given.data:
            rate = models[name]["dropout_rate"]
            models[name]["worth"] = worth(bundle.path, given.passes, rate, given.data, given.ood)
    record = {
        "benchmark": "uncertainty",
        "command": f"python benchmarks/{command_line(folders=False)}",
        "passes": given.passes,
        "targets": TARGETS,
        "models": models,
        "environment": environment(),
    }
    if given.out:
        files.write_json(given.out, clean(record))
    print(json.dumps(clean({name: model["ratio"] for name, model in models.items()})))


if __name__ == "__main__":
    main()

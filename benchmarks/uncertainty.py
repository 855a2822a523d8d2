"""What do uncertainty and its measures cost, and what are they worth?

    python benchmarks/uncertainty.py BUNDLE [--data D --ood D2] [--runs N] [--passes T] [--out FILE.json]

Cost: one deterministic ``Classifier.predict`` of one preprocessed image, one thread, against T Monte-Carlo passes with every
measure (dropout in the head, and in the last two blocks), and against 8 views with every measure on one and on two threads. All
of them run in turn in one process, ten calls at a time. A ratio is of the medians of all calls, with a bootstrap 95 % interval, and
beside it of the tenth percentiles and of the minima: where other work stops every other call of a few milliseconds, the median of a
long call measures that, and the median of a short one does not. ``naive_head`` runs the whole file and then the head T times in a
Python loop. ``chrt -f 10`` before the command (as root) holds other work back on a machine that is not quiet.

Worth (with ``--data``): ``edge-derm uncertainty`` on those images. The dropout rate is 0.2 where the bundle does not say.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np

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


def ratio(taken: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    """Of medians, with a paired bootstrap interval, and of tenth percentiles."""
    picks = np.random.default_rng(0).integers(0, len(plain), (1000, len(plain)))
    drawn = np.median(taken[picks], axis=1) / np.median(plain[picks], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    quiet = np.percentile(taken, 10) / np.percentile(plain, 10)
    return {
        "value": float(np.median(taken) / np.median(plain)),
        "low": float(low),
        "high": float(high),
        "of_tenth_percentiles": float(quiet),
        "of_minima": float(taken.min() / plain.min()),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--ood")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--passes", type=int, default=32)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    bundle = open_bundle(given.bundle)
    dropped = bundle.manifest.dropout
    rate = dropped.rate if dropped is not None else 0.2
    pixels = open_dataset("synthetic:16").images(bundle.manifest.input.size_px)
    taken = time_in_turn(calls(bundle, given.passes, rate, pixels), len(pixels), given.runs)
    ratios = {name: ratio(taken[name], taken["deterministic"]) for name in taken if name != "deterministic"}
    for name, found in ratios.items():
        target = f", target {TARGETS[name]:g}" if name in TARGETS else ""
        print(
            f"{name:18} {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f}) of one inference; "
            f"of tenth percentiles {found['of_tenth_percentiles']:.3f}, of minima {found['of_minima']:.3f}{target}",
            file=sys.stderr,
        )
    record = {
        "benchmark": "uncertainty",
        "command": f"python benchmarks/{command_line(folders=False)}",
        "model": {
            "variant": bundle.manifest.variant,
            "size_px": bundle.manifest.input.size_px,
            "recipe": bundle.manifest.recipe,
        },
        "passes": given.passes,
        "dropout_rate": rate,
        "deterministic_ms": {
            "p50": float(np.median(taken["deterministic"])),
            "p10": float(np.percentile(taken["deterministic"], 10)),
        },
        "ratio": ratios,
        "targets": TARGETS,
        "environment": environment(),
        "worth": None,
    }
    if given.data:
        record["worth"] = doubting.assess(
            given.bundle, data=given.data, ood=given.ood, mc=given.passes, dropout=rate
        )
        record["worth"].pop("risk_coverage")
        record["worth"]["bundle"] = given.bundle.name  # where folders lie is nobody's business
        if given.ood:
            record["worth"]["ood"]["data"] = Path(given.ood).name
    if given.out:
        files.write_json(given.out, clean(record))
    print(json.dumps(clean({"ratio": ratios})))


if __name__ == "__main__":
    main()

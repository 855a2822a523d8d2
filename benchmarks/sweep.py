"""Does a real 24-cell sweep end with the same table whatever is killed on the way?

    python benchmarks/sweep.py --json benchmarks/results/sweep.json

Three times the same grid (8 trainings of one epoch on drawn pictures at 32 px, three recipes each), with TensorFlow and all
that an ordinary cell does: undisturbed; with ``kill -9`` of the driver once a third is done, then the same command again; and on
a local Dask cluster of three worker processes, one of them killed by ``kill -9`` once a third is done. The tables must be equal
in every column but those that time.
"""

from __future__ import annotations

import contextlib
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import click

from edge_derm import files
from edge_derm.measure.environment import environment
from edge_derm.sweep.table import TIMED

GRID = """
variants = ["mobilenet", "d1"]
sizes = [32]
recipes = ["float32", "float16", "dynamic"]
seeds = [0, 1, 2, 3]
[train]
epochs = 1
[bench]
runs = 20
"""
DATA, CELLS, KILL_AT, WORKERS = "synthetic:48", 24, 8, 3
COMMAND = [
    sys.executable,
    "-c",
    "from edge_derm.cli import main; main()",
    "sweep",
    "--data",
    DATA,
    "--threads",
    "1",
]


def start(folder: Path, *rest: str) -> subprocess.Popen[bytes]:
    """The command, under way."""
    grid = folder.parent / "grid.toml"
    return subprocess.Popen(
        [*COMMAND, "--grid", str(grid), "--out", str(folder), *rest], stdout=subprocess.DEVNULL
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a success."""
    if process.wait():
        raise click.ClickException(f"the sweep ended with {process.returncode}")


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    """Wait for ``condition`` while ``process`` runs."""
    while not condition():
        if process.poll() is not None:
            raise click.ClickException(f"the sweep ended too early, with {process.returncode}")
        time.sleep(0.05)


def finished(folder: Path) -> dict[str, int]:
    """When each finished cell was finished (ns): a cell that is done again has another time."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cells/*/cell.json")}


def table(folder: Path) -> list[dict[str, str]]:
    """The rows without their times."""
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(file)]


def undisturbed(folder: Path) -> dict[str, int]:
    finish(start(folder, "--workers", "2"))
    return {}


def driver_killed(folder: Path) -> dict[str, int]:
    """Kill the driver, and run the same command again; what was finished at the kill."""
    driver = start(folder, "--workers", "2")
    until(lambda: len(finished(folder)) >= KILL_AT, driver)
    driver.kill()
    driver.wait()
    kept = finished(folder)
    finish(start(folder, "--workers", "2"))
    return kept


def worker_killed(folder: Path) -> dict[str, int]:
    """Kill one of three Dask workers; what was finished at the kill."""
    with cluster(folder.parent) as (address, workers):
        driver = start(folder, "--dask", address)
        until(lambda: len(finished(folder)) >= KILL_AT, driver)
        kept = finished(folder)
        workers[0].kill()
        finish(driver)
    return kept


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and its workers, in processes of their own."""
    where = folder / "scheduler.json"
    common = [sys.executable, "-m"]
    quiet: Any = {"stderr": subprocess.DEVNULL, "cwd": folder}
    with contextlib.ExitStack() as stack:

        def run(words: list[str]) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([*common, *words], **quiet)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        run([*scheduler, "--scheduler-file", str(where)])
        while not (where.exists() and where.stat().st_size):
            time.sleep(0.05)
        address = json.loads(where.read_text())["address"]
        worker = ["distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
        yield address, [run(worker) for _ in range(WORKERS)]


CASES = {"undisturbed": undisturbed, "driver_killed": driver_killed, "dask_worker_killed": worker_killed}


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record here.")
def main(json_file: Path | None) -> None:
    """Print the cases; see the module's docstring."""
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "grid.toml").write_text(GRID)
        wanted: list[dict[str, str]] = []
        for name, case in CASES.items():
            began, folder = time.monotonic(), Path(scratch) / name
            kept = case(folder)
            rows, now = table(folder), finished(folder)
            wanted = wanted or rows
            cases[name] = {
                "cells": len(rows),
                "failed": sum(bool(row["error"]) for row in rows),
                "finished_at_the_kill": len(kept) or None,
                "of_these_done_again": sum(now[cell] != at for cell, at in kept.items()),
                "table_equal": rows == wanted,
                "seconds": round(time.monotonic() - began, 1),
            }
            click.echo(f"{name}: {cases[name]}")
    record = {
        "record": "sweep survival",
        "grid": GRID,
        "data": DATA,
        "cases": cases,
        "environment": environment(command=" ".join(["python", "benchmarks/sweep.py", *sys.argv[1:]])),
    }
    if json_file:
        files.write_json(json_file, record)
    if any(
        not case["table_equal"] or case["failed"] or case["of_these_done_again"] for case in cases.values()
    ):
        raise click.ClickException("a table differs, a cell failed, or a finished cell was done again")


if __name__ == "__main__":
    main()

"""The reference models and every table of the README, but for the quickstart's time, made anew from data and seed.

    scripts/reproduce HAM10000 CALTECH101 ALPHA_0.25.h5 ALPHA_0.5.tflite [MODEL.tflite …]

A row of the README comes from one record; a record from one command, and where it is there the command is not run again: after a
kill or Ctrl-C the same line goes on. The weights are Keras' MobileNet v1 without top and the TensorFlow zoo's quantised file, the
further models those that the generated C is compared on. ``--quick`` tries the models and what judges them on drawn pictures, in
minutes. Records of time want a machine with nothing else to do.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Sequence

import click

HERE = Path(__file__).resolve().parents[1]
Command = Sequence["str | Path"]

PYTHON: Command = [sys.executable]
EDGE_DERM: Command = [Path(sys.executable).with_name("edge-derm")]


class Cells:
    """Commands that each leave ``work/NAME.json``, and are run where it is missing."""

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, command: Command, *, option: str = "--json") -> None:
        """Run a command that writes its record behind ``option``; with an empty one its output is the record."""
        record, part = self.work / f"{name}.json", self.work / f"{name}.part"
        if record.is_file():
            return
        click.echo(f"{name} …", err=True)
        if option:
            check(name, [*command, option, record])
            return
        part.write_bytes(check(name, command, keep=True))
        part.rename(record)

    def make(self, name: str, command: Command, *, option: str = "--out") -> Path:
        """Run a command that writes the folder ``work/NAME`` and itself goes on with an unfinished one."""
        check(name, [*command, option, self.work / name])
        return self.work / name


def check(name: str, command: Command, *, keep: bool = False) -> bytes:
    """Run from the top of the project; what it printed if that is kept."""
    done = subprocess.run([str(word) for word in command], cwd=HERE, stdout=subprocess.PIPE if keep else None)
    if done.returncode:
        raise click.ClickException(
            f"{name}: exit status {done.returncode}; once that is mended, the same line goes on from here"
        )
    return done.stdout or b""


def models(cells: Cells, data: str, weights: Sequence[str], *, quick: bool) -> list[Path]:
    """The reference bundles, judged; a calibrated copy of each, which are returned, ``small`` first."""
    splits = ["--splits", "0", "--quick"] if quick else ["--splits", "0,1,2"]
    command = [*PYTHON, "benchmarks/reference.py", "--data", data, *weights, *splits, "--work", cells.work]
    cells.run("reference", command)
    judged = json.loads((cells.work / "reference.json").read_text("utf-8"))["models"]
    copies = {name: cells.work / "calibrated" / f"{name}.bundle" for name in judged}
    for name, copy in copies.items():
        if not copy.is_dir():
            part = copy.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(cells.work / copy.name, part)
            part.rename(copy)
        for step in ("calibrate", "evaluate"):
            cells.run(f"{step}-{name}", [*EDGE_DERM, step, copy, "--data", data])
    return list(copies.values())


def others(cells: Cells, data: str, narrow: str) -> list[Path]:
    """The runs of the other networks, by the recipe of ``small``."""
    options = ["--data", data, "--weights", narrow, "--hold-out", "0.2"]
    return [
        cells.make(variant, [*EDGE_DERM, "train", *options, "--variant", variant])
        for variant in ("mobilenet", "d2", "d3")
    ]


def measured(cells: Cells, calibrated: Path, data: str, foreign: str, victim: Path) -> None:
    """What ``small`` is worth under attack, also ``victim`` under what was made on it, and what it costs where it runs."""
    run, bundle, student = (cells.work / name for name in ("small", "small.bundle", "student.bundle"))
    audit: Command = [*PYTHON, "benchmarks/audit.py", run, "--data", data, "--proxy", foreign]
    audit = [*audit, "--victims", victim]
    settings = "--images 300 --crafting 400 --passes 2 --draws 2 --around 120".split()
    cells.run("audit", [*audit, *settings, "--cells", cells.work / "audit"], option="--out")
    check("targets", [*EDGE_DERM, "targets", "--prepare", "qemu:cortex-a72"])
    cells.run("dilated_export", [*PYTHON, "benchmarks/dilated_export.py", "--run", run, "--data", data])
    cells.run("peers", [*PYTHON, "benchmarks/peers.py", "--run", run])
    real = cells.work / "float32.bundle"
    if not real.is_dir():
        cells.make(real.name, [*EDGE_DERM, "export", run, "--recipe", "float32"])
    overhead = [*PYTHON, "benchmarks/runtime_overhead.py", bundle, calibrated, student, real]
    cells.run("runtime_overhead", overhead, option="--out")
    cells.run("camera", [*PYTHON, "benchmarks/camera.py", "--bundle", bundle])


def compressed(cells: Cells, data: str, runs: Sequence[Path]) -> None:
    """What int8 costs in decisions."""
    named = [word for run in runs for word in ("--run", run)]
    command: Command = [*PYTHON, "benchmarks/compression.py", "--data", data, *named]
    cells.run("compression", [*command, "--work", cells.work / "compression"], option="--out")


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.argument("given", nargs=-1)
@click.option("--quick", is_flag=True, help="Tiny models of drawn pictures, and what judges them.")
@click.option("--work", type=click.Path(path_type=Path), help="Kept here; by default build/reproduce.")
def main(given: tuple[str, ...], quick: bool, work: Path | None) -> None:
    if (len(given) < 4 and not quick) or (given and quick):
        raise click.UsageError(
            f"expected HAM10000 CALTECH101 ALPHA_0.25.h5 ALPHA_0.5.tflite [MODEL.tflite …], or --quick alone, got {len(given)}"
        )
    work = (work or HERE / "build" / ("reproduce-quick" if quick else "reproduce")).absolute()
    cells, uncertainty = Cells(work), [*PYTHON, "benchmarks/uncertainty.py"]
    if quick:
        calibrated = models(cells, "synthetic:160", [], quick=True)
        cells.run("uncertainty", [*uncertainty, *calibrated, "--runs", "10", "--passes", "4"], option="--out")
        return
    data, foreign, narrow, wide = (str(Path(word).absolute()) for word in given[:4])
    compared = [Path(word).absolute() for word in given[4:]]
    calibrated = models(cells, data, ["--weights", narrow, "--teacher-weights", wide], quick=False)
    cells.run("uncertainty", [*uncertainty, *calibrated, "--data", data, "--ood", foreign], option="--out")
    runs = others(cells, data, narrow)
    measured(cells, calibrated[0], data, foreign, runs[0])
    firmware = [*PYTHON, "benchmarks/firmware.py", work / "small.bundle" / "model.tflite", *compared]
    cells.run("firmware", firmware)
    compressed(cells, data, [work / "small", *runs])
    for fuzz in ("fuzz_tflite", "fuzz_bridge"):
        cells.run(fuzz, [*PYTHON, f"tests/{fuzz}.py"], option="")


if __name__ == "__main__":
    main()

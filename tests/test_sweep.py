"""A sweep ends with the same table whatever stops on the way."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_derm import inspecting, judging
from edge_derm.errors import DataError, ModelError, TargetError
from edge_derm.sweep import driving, local, table
from edge_derm.sweep.cells import Outcome, Task, Training, failed
from edge_derm.sweep.grid import read_grid
from edge_derm.sweep.progress import Progress
from edge_derm.sweep.shipping import Shipment, unpack
from processes import children, wait_for

HERE = Path(__file__).parent
GRID = """
variants = ["mobilenet", "d1"]
widths = [0.25, 0.5]
sizes = [96]
recipes = ["float32", "int8", "int16x8"]
seeds = [0, 1]
"""  # 24 cells of 8 trainings
DATA = "synthetic:16"


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    """Workers find ``small_cells`` and the package."""
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def small(grid, out, **options):
    return driving.sweep(grid, data=DATA, out=out, work="small_cells:perform", **options)


def rows(out):
    """The table, but for the columns that time."""
    with open(out / "results.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in table.TIMED} for row in csv.DictReader(file)]


def journal(out):
    return (out / "journal.txt").read_text().split()


def test_a_sweep_does_every_cell_once_and_a_second_run_does_none(grid, tmp_path):
    record = small(grid, tmp_path / "out", workers=2)
    assert len(record["runs"]) == 24 and record["failed"] == 0
    assert len(journal(tmp_path / "out")) == len(set(journal(tmp_path / "out"))) == 24 + 8
    again = small(grid, tmp_path / "out")
    assert again["runs"] == record["runs"] and len(journal(tmp_path / "out")) == 24 + 8


def test_a_larger_grid_goes_on_from_a_smaller_one(grid, tmp_path):
    grid.write_text(GRID.replace("[0, 1]", "[0]"))
    assert len(small(grid, tmp_path / "out", workers=2)["runs"]) == 12
    grid.write_text(GRID)
    assert len(small(grid, tmp_path / "out", workers=2)["runs"]) == 24
    assert len(journal(tmp_path / "out")) == 24 + 8


def test_another_sweep_is_not_mixed_into_a_folder(grid, tmp_path):
    grid.write_text(GRID + "[train]\nepochs = 3\n")
    driving.settle(tmp_path / "sweep.json", {"options": read_grid(grid).options, "data": "a"})
    grid.write_text(GRID + "[train]\nepochs = 4\n")
    with pytest.raises(ModelError, match="train.epochs = 3, not 4") as raised:
        driving.settle(tmp_path / "sweep.json", {"options": read_grid(grid).options, "data": "a"})
    assert raised.value.code == "sweep-differs"


def test_threads_stay_what_they_were_whatever_the_workers(grid, tmp_path):
    """The last digits of a training depend on them."""
    grid.write_text("")
    small(grid, tmp_path / "out", workers=1, threads=3)
    assert driving.begun_with(tmp_path / "out" / "sweep.json") == 3
    small(grid, tmp_path / "out", workers=2)
    assert driving.begun_with(tmp_path / "out" / "sweep.json") == 3
    with pytest.raises(ModelError, match="threads = 3, not 2"):
        small(grid, tmp_path / "out", threads=2)


def test_two_sweeps_never_work_in_one_folder(grid, tmp_path):
    with driving.held(tmp_path / "out"):
        with pytest.raises(ModelError) as raised:
            small(grid, tmp_path / "out")
    assert raised.value.code == "sweep-busy"


def test_failures_are_recorded_and_stop_nothing_else(grid, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    cell, training, crash = "d1-a0.25-96px-s0-int8", "d1-a0.5-96px-s1", "mobilenet-a0.25-96px-s0-int16x8"
    for name in (f"fail-{cell}", f"fail-{training}", f"crash-{crash}", "crash-once-mobilenet-a0.5-96px-s0"):
        (out / name).touch()
    record = small(grid, out, workers=2)
    broken = {row["cell"]: row for row in record["runs"] if row["error"]}
    assert set(broken) == {
        cell,
        crash,
        *(f"{training}-{recipe}" for recipe in ("float32", "int8", "int16x8")),
    }
    assert broken[cell]["error"] == "no-luck" and broken[cell]["message"] == "expected luck, got none"
    assert broken[crash]["error"] == "process-killed" and "SIGKILL" in broken[crash]["message"]
    assert training in broken[f"{training}-int8"]["message"]
    assert journal(out).count(crash) == local.ATTEMPTS and journal(out).count("mobilenet-a0.5-96px-s0") == 2
    assert "last words" in (out / "logs" / f"{crash}.txt").read_text()
    for name in out.glob("*-*-96px*"):
        name.unlink()
    mended = small(grid, out, workers=2)
    whole = small(grid, tmp_path / "other", workers=2)
    assert mended["failed"] == 0 and rows(out) == rows(tmp_path / "other")
    assert [row["bytes"] for row in mended["runs"]] == [row["bytes"] for row in whole["runs"]]


DRIVER = """
import sys
from pathlib import Path
from edge_derm.sweep import driving
driving.sweep(Path(sys.argv[1]), data=sys.argv[2], out=Path(sys.argv[3]), workers=2, work="small_cells:perform",
              dask=sys.argv[4] if len(sys.argv) > 4 else None)
"""


def start_driver(grid, out, *rest):
    command = [sys.executable, "-c", DRIVER, str(grid), DATA, str(out), *rest]
    return subprocess.Popen(command, env={**os.environ, "SMALL_CELLS_PACE_S": "0.3"})


def finished_cells(out):
    return [path.parent.name for path in out.glob("cells/*/cell.json")]


@pytest.mark.slow
def test_kill_9_of_the_driver_costs_nothing_that_was_finished(grid, tmp_path):
    small(grid, tmp_path / "undisturbed", workers=2)
    out = tmp_path / "out"
    begun = {}  # by cells that were finished at a kill: how often they had been begun until then
    for wanted in (5, 14):  # twice
        driver = start_driver(grid, out)
        wait_for(lambda: len(finished_cells(out)) >= wanted)
        crew = children(driver.pid)
        assert crew
        driver.kill()
        driver.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in crew), 30)
        kept = set(finished_cells(out))
        assert wanted <= len(kept) < 24
        begun = {name: journal(out).count(name) for name in kept} | begun
    small(grid, out, workers=2)
    assert rows(out) == rows(tmp_path / "undisturbed")
    assert begun == {name: journal(out).count(name) for name in begun}
    assert len(journal(out)) <= 24 + 8 + 2 * 2  # each kill interrupted at most both workers


def test_the_time_left_is_that_of_the_tasks_left():
    """Two at a time; a training of four times the pixels takes four times as long."""
    small_one, large = Training("d1", 0.25, 64, 0), Training("d1", 0.25, 128, 0)
    tasks = [
        Task(t, recipe, "", "", Path()) for t in (small_one, large) for recipe in (None, "int8", "float32")
    ]
    now, said = [0.0], []
    progress = Progress(tasks, 4, said.append, clock=lambda: now[0])
    cell = {"accuracy": 0.5, "bytes": 1000}
    progress.tell(Outcome(small_one.name, 100, result={"validation_accuracy": 0.5}))
    assert "left" not in said[-1]  # no cell has ended yet: nothing is known of them
    now[0] = 55.0
    progress.tell(Outcome(f"{small_one.name}-int8", 10, result=cell))
    assert progress.left_s() == (400 + 10 + 10 + 10) / 2 and said[-1].endswith("about 4 min left")
    progress.tell(failed(large.name, "code", "why"))
    assert progress.left_s() == 3 * 10 / 2 and "failed: why" in said[-1]


def test_a_shipment_arrives_whole_or_is_refused(tmp_path):
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    (tmp_path / "pictures" / "a" / "1.png").write_bytes(b"one")
    (tmp_path / "w.h5").write_bytes(b"weights")
    sent = Shipment.of(tmp_path / "pictures", {"0.25": str(tmp_path / "w.h5")})
    sent.arrive(tmp_path / "worker")
    sent.arrive(tmp_path / "worker")  # a second thread, or a worker that came back
    options = {"train": {"weights": {"0.25": str(tmp_path / "w.h5")}, "epochs": 3}}
    task = Task(Training("d1", 0.25, 64, 0), None, str(tmp_path / "pictures"), "", Path(), options)
    here = Shipment.localise(task, tmp_path / "worker" / sent.key)
    assert (Path(here.data) / "a" / "1.png").read_bytes() == b"one" and Path(here.data).name == "pictures"
    assert Path(here.options["train"]["weights"]["0.25"]).read_bytes() == b"weights"
    assert here.options["train"]["epochs"] == 3 and str(tmp_path / "worker") in here.data
    broken = replace(sent, parts={name: content + b"!" for name, content in sent.parts.items()})
    with pytest.raises(DataError) as raised:
        broken.arrive(tmp_path / "other")
    assert raised.value.code == "shipment-broken" and not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "."])
def test_nothing_that_is_sent_back_leaves_its_folder(tmp_path, name):
    with pytest.raises(DataError) as raised:
        unpack({name: b"x"}, tmp_path / "in")
    assert raised.value.code == "shipment-path" and not (tmp_path / "in").exists()


@pytest.fixture
def scheduler(tmp_path):
    """A Dask scheduler in a process of its own, and a way to start workers for it."""
    pytest.importorskip("distributed", reason="the package distributed is not installed")
    address_file = tmp_path / "scheduler.json"
    started = []

    def start(*words):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
                cwd=tmp_path,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "SMALL_CELLS_PACE_S": "0.3"},
            )
        )
        return started[-1]

    start(
        "dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(address_file),
    )
    address = wait_for(
        lambda: address_file.exists() and json.loads(address_file.read_text() or "{}").get("address")
    )
    words = ["dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    yield address, lambda nanny="--no-nanny": start(*words, nanny)
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)  # a nanny takes its worker with it
        process.wait()


@pytest.mark.slow
def test_kill_9_of_a_dask_worker_costs_only_what_it_was_at(grid, tmp_path, scheduler):
    address, add_worker = scheduler
    small(grid, tmp_path / "undisturbed", workers=2)
    out = tmp_path / "out"
    crew = [add_worker() for _ in range(3)]
    driver = start_driver(grid, out, address)
    wait_for(lambda: len(finished_cells(out)) >= 6)
    kept = set(finished_cells(out))
    crew[0].kill()
    assert driver.wait(timeout=300) == 0
    assert rows(out) == rows(tmp_path / "undisturbed")
    assert all(journal(out).count(name) == 1 for name in kept)
    assert len(journal(out)) <= 24 + 8 + 2


@pytest.mark.slow
def test_what_fails_on_a_cluster_is_a_row_too(grid, tmp_path, scheduler):
    address, add_worker = scheduler
    add_worker("--nanny")
    out = tmp_path / "out"
    out.mkdir()
    grid.write_text('variants = ["mobilenet", "d1"]\nrecipes = ["int8", "float32"]\n')
    training, crash = "d1-a0.25-128px-s0", "mobilenet-a0.25-128px-s0-int8"
    (out / f"fail-{training}").touch()
    (out / f"crash-{crash}").touch()
    record = small(grid, out, dask=address)
    errors = {row["cell"]: row["error"] for row in record["runs"]}
    assert errors == {
        crash: "worker-died",
        "mobilenet-a0.25-128px-s0-float32": None,
        f"{training}-int8": "no-luck",
        f"{training}-float32": "no-luck",
    }


@pytest.mark.slow
def test_workers_that_share_no_folder_are_sent_the_data_and_send_back_what_they_made(
    tmp_path, grid, scheduler
):
    address, add_worker = scheduler
    add_worker()
    pictures = tmp_path / "pictures"
    for label in ("a", "b"):
        (pictures / label).mkdir(parents=True)
        for number in range(3):
            (pictures / label / f"{number}.bmp").write_bytes(
                b"BM" + bytes([number, len(label)]) + label.encode()
            )
    out = tmp_path / "out"
    record = driving.sweep(
        grid, data=str(pictures), out=out, dask=address, ship=True, work="shipped_cells:perform"
    )
    assert record["failed"] == 0 and len(finished_cells(out)) == 24
    seen = {Path(row["seen"]) for row in record["runs"]}
    assert pictures not in seen and all(path.name == "pictures" for path in seen)
    assert len(list(out.glob("runs/*/run.json"))) == 8 and not (out / "journal.txt").exists()


def test_no_scheduler_is_one_clear_refusal(grid, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="the package distributed is not installed")
    monkeypatch.setattr("edge_derm.sweep.cluster.CONNECT_S", 1)
    with pytest.raises(TargetError, match="dask scheduler") as raised:
        small(grid, tmp_path / "out", dask="tcp://127.0.0.1:9")
    assert raised.value.code == "dask-unreachable"


@pytest.mark.slow
def test_a_cell_is_an_ordinary_train_export_bench_and_evaluate(grid, tmp_path):
    """With TensorFlow, through the command, the driver killed in between."""
    grid.write_text(
        'variants = ["d1"]\nsizes = [32]\nrecipes = ["float32"]\nseeds = [3]\n[train]\nepochs = 1\n'
    )
    out, name = tmp_path / "out", "d1-a0.25-32px-s3"
    words = ["sweep", "--grid", str(grid), "--data", "synthetic:48", "--out", str(out), "--json", "-"]
    command = [sys.executable, "-c", "from edge_derm.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        run = wait_for(lambda: next(out.glob("runs/*/run.json"), None), 300)
        driver.kill()
    trained = run.stat().st_mtime_ns
    record = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    (row,) = record["runs"]
    assert run == out / "runs" / name / "run.json" and run.stat().st_mtime_ns == trained
    bundle = out / "cells" / f"{name}-float32" / "model.bundle"
    judged = judging.evaluate(bundle, data="synthetic:48", seed=3)
    assert judged["part"] == row["part"] == "validation" and judged["images"] == row["images"]
    assert row["accuracy"] == judged["accuracy"]["value"] and row["ece"] == pytest.approx(
        judged["ece"]["value"]
    )
    assert (
        row["bytes"] == (bundle / "model.tflite").stat().st_size
        and row["macs"] == inspecting.inspect(bundle)["macs"]
    )
    assert json.loads((bundle / "manifest.json").read_text())["provenance"]["command"].startswith(
        "-c sweep --grid"
    )
    assert len(record["pareto"]) == 1 and Path(record["report"]).is_file()

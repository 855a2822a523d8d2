"""``sweep``: from a grid file to a table, whatever stops on the way.

The folder is the state: a finished cell holds ``cell.json``, ``sweep.json`` says what all cells have in common. Running the
same command again does what is missing, and tries again what failed; a larger grid goes on from a smaller one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

from .. import files
from ..data import open_dataset
from ..errors import ModelError, TargetError
from ..measure.targets import find_target
from ..records import clean
from ..report import page
from . import cluster, local, table
from .cells import CELLS, RUNS, Cell, Outcome, Task
from .grid import Grid, read_grid
from .progress import Progress
from .shipping import Shipment, unpack
from .work import finished

STATE, REPORT = "sweep.json", "report.html"
WORK = "edge_derm.sweep.work:perform"
Say = Callable[[str], None]


def sweep(
    grid_file: Path,
    *,
    data: str,
    out: Path,
    workers: int = 1,
    dask: str | None = None,
    ship: bool = False,
    threads: int | None = None,
    work: str = WORK,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Do every cell of the grid that is not done yet; write the table and the report to ``out``; return the record.

    Args:
        workers: processes on this machine.
        dask: address of a scheduler whose workers do the work instead.
        ship: its workers share no folder with us: send them the data, fetch what they make.
        threads: TensorFlow's, part of what a sweep is (see ``Task``); None: those the folder was begun with, or as many as
            there are cores here for each worker.
        work: ``module:function`` that does a task, imported where the task is done.

    Raises:
        ModelError: what ``read_grid`` refuses; ``sweep-differs``, ``sweep-busy``.
        DataError: the data. TargetError: ``target-not-ready``, and what ``cluster.run`` raises.
    """
    grid = read_grid(grid_file)
    if dask is None:
        check_targets(grid.options["bench"].get("targets", ()))
    drawn = data.partition(":")[0] == "synthetic"
    spec = data if drawn else str(Path(data).resolve())
    digests = {
        seed: open_dataset(spec, seed=seed).digest for seed in (grid.seeds if drawn else grid.seeds[:1])
    }
    started = time.monotonic()
    with held(out):
        threads = threads or begun_with(out / STATE) or max(1, len(local.usable_cores()) // workers)
        identity = {
            "options": grid.options,
            "data": spec if drawn else digests[grid.seeds[0]],
            "threads": threads,
        }
        settle(out / STATE, identity)
        rows = {cell.name: finished(out / CELLS / cell.name) for cell in grid.cells()}
        tasks = plan(grid, rows, spec, digests, out.resolve(), threads)
        progress = Progress(tasks, len(rows), say)
        if dask is None:
            outcomes = local.run(tasks, folder=out.resolve(), workers=workers, work=work)
        else:
            sent = Shipment.of(None if drawn else Path(spec), grid.options["train"].get("weights", {}))
            outcomes = cluster.run(
                tasks, address=dask, folder=out.resolve(), work=work, shipment=sent if ship else None, say=say
            )
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                keep(outcome, grid, rows, out)
                progress.tell(outcome)
        return conclude(grid, rows, out, data=data, seconds=time.monotonic() - started)


def check_targets(names: Sequence[str]) -> None:
    """Refuse a target that is not ready while nothing is trained yet."""
    for name in names:
        ready, missing = find_target(name).ready()
        if not ready:
            raise TargetError(
                f"{name}: expected a target that is ready, got one with parts missing: run '{missing}'",
                code="target-not-ready",
            )


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """``out``, made if need be, as this process's own until the end of the block.

    Raises:
        ModelError: ``sweep-busy``.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"{out}: expected a folder that no sweep is at work in, found one: wait for it, or choose another --out",
                code="sweep-busy",
            ) from None
        yield


def begun_with(path: Path) -> int | None:
    """The threads of the sweep whose state is at ``path``; None before it has begun."""
    return json.loads(path.read_text(encoding="utf-8"))["threads"] if path.is_file() else None


def settle(path: Path, wanted: Mapping[str, Any]) -> None:
    """Write what all cells have in common, or hold it against what is there.

    Raises:
        ModelError: ``sweep-differs``.
    """
    if not path.is_file():
        files.write_json(path, wanted)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    was, now = flat(found), flat(wanted)
    differs = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
    if differs:
        name = differs[0]
        raise ModelError(
            f"{path.parent}: expected a folder of this same sweep, found one with {name} = {was.get(name)}, not "
            f"{now.get(name)}: choose another --out, or set it back",
            code="sweep-differs",
        )


def flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested values by dotted name, as text."""
    if isinstance(value, Mapping):
        return {
            key: text
            for k, v in value.items()
            for key, text in flat(v, f"{name}.{k}" if name else str(k)).items()
        }
    return {name.removeprefix("options."): json.dumps(value)}


def plan(
    grid: Grid, rows: Mapping[str, Any], data: str, digests: Mapping[int, str], folder: Path, threads: int
) -> list[Task]:
    """What is left to do: a training that has unfinished cells and no run yet, then its unfinished cells."""
    tasks = []
    for training in grid.trainings():
        digest = digests.get(training.seed) or next(iter(digests.values()))
        left = [recipe for recipe in grid.recipes if rows[Cell(training, recipe).name] is None]
        trained = (folder / RUNS / training.name / "run.json").is_file()
        first: list[str | None] = [] if trained or not left else [None]
        tasks += [
            Task(training, recipe, data, digest, folder, grid.options, threads) for recipe in [*first, *left]
        ]
    return tasks


def keep(outcome: Outcome, grid: Grid, rows: dict[str, Any], out: Path) -> None:
    """Put away what a task made, and write the table anew when it was a cell."""
    if outcome.files is not None:
        unpack(outcome.files, out / (CELLS if outcome.name in rows else RUNS) / outcome.name)
    if outcome.name in rows:
        rows[outcome.name] = outcome.result or {"error": outcome.error}
        table.write(out, complete(grid, rows))


def complete(grid: Grid, rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the cells that ended, in the grid's order, each with the same columns; a failed one with its error."""
    ended = []
    for cell in grid.cells():
        row = rows[cell.name]
        if row is not None:
            error = row.get("error") or {}
            told = dict(zip(table.CONFIGURATION, cell.configuration))
            values = {"cell": cell.name, **told, "seed": cell.training.seed, **row}
            ended.append({**values, "error": error.get("code"), "message": error.get("message")})
    columns = dict.fromkeys(name for row in sorted(ended, key=len, reverse=True) for name in row)
    return [{name: row.get(name) for name in columns} for row in ended]


def conclude(grid: Grid, rows: Mapping[str, Any], out: Path, *, data: str, seconds: float) -> dict[str, Any]:
    """The record: every row, the front; table and report are written."""
    ended = complete(grid, rows)
    surveyed = table.configurations(ended)
    axes = table.mark(surveyed)
    record = clean(
        {
            "record": "sweep",
            "data": data,
            "grid": {
                name: getattr(grid, name) for name in ("variants", "widths", "sizes", "recipes", "seeds")
            },
            "options": grid.options,
            "seconds": seconds,
            "runs": ended,
            "failed": sum(row["error"] is not None for row in ended),
            "axes": axes,
            "configurations": surveyed,
            "pareto": [row for row in surveyed if row["pareto"]],
            "tables": table.write(out, ended),
            "report": str(out / REPORT),
        }
    )
    files.write_json(out / "record.json", record)
    page.render([record], out / REPORT)
    return record

"""Tasks on a running ``dask.distributed`` scheduler: its workers come and go, what a lost one was at is done by another.

Workers either share the sweep's folder and data with us under the same paths, or (``Shipment``) are sent the data once, check
their digest, work in a folder of their own and send back what they made.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Generator, Iterator, Mapping, Sequence

from .. import __version__, files
from ..errors import TargetError
from . import worker
from .cells import RUNS, Outcome, Task, failed
from .local import inherited
from .shipping import Shipment, pack, unpack
from .work import attempt

CONNECT_S = 20
_one_at_a_time = threading.Lock()  # a worker with several threads: Keras' seeds belong to the whole process


def run(
    tasks: Sequence[Task],
    *,
    address: str,
    folder: Path,
    work: str,
    shipment: Shipment | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Generator[Outcome, None, None]:
    """Outcomes as they come; as ``local.run``, with the workers of the scheduler at ``address``.

    When a worker dies, Dask blames every task that waited there as well as the one that killed it. So a task that was blamed
    too often is tried once more when all others have ended, alone; what kills its workers then, has failed.

    Raises:
        TargetError: ``dask-unreachable``, ``dask-lost`` (the scheduler went away; what is finished stays finished).
    """
    from distributed import as_completed

    with contextlib.closing(connect(address)) as client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            say(f"waiting for workers at {address}: start some with 'dask worker {address} --nthreads 1'")
        if shipment is not None:
            client.register_plugin(shipment.plugin())

        def submit(task: Task, before: Any) -> Any:
            if before is None and shipment is not None and task.after is not None:
                before = pack(folder / RUNS / task.after)
            key = shipment and shipment.key
            return client.submit(perform, task, before, work, key, __version__, pure=False)

        futures: dict[Any, Task] = {}
        trainings: dict[str, Any] = {}  # its future, then its failure if that is how it ended
        blamed = []
        for task in tasks:
            future = submit(task, trainings.get(str(task.after)))
            futures[future] = task
            if task.recipe is None:
                trainings[task.name] = future
        for future in as_completed(list(futures), loop=client.loop):
            task, outcome = futures[future], told(future, futures[future])
            if outcome is None:
                blamed.append(task)
            else:
                trainings[task.name] = outcome if outcome.error else None
                yield outcome
        for task in sorted(blamed, key=lambda task: task.recipe is not None):
            future = submit(task, trainings.get(str(task.after)))
            future.exception()  # waits for the end
            outcome = told(future, task)
            if outcome is None:
                outcome = failed(task.name, "worker-died", f"{task.name}: {future.exception()}")
            trainings[task.name] = outcome if outcome.error else None
            yield outcome


def connect(address: str) -> Any:
    """A client of the scheduler at ``address``.

    Raises:
        TargetError: ``dask-unreachable``.
    """
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise TargetError(
            f"--dask {address}: expected a Dask scheduler, got no answer ({' '.join(str(error).split())[:200]}): "
            "start one with 'dask scheduler' and its workers with 'dask worker ADDRESS'",
            code="dask-unreachable",
        ) from error


def told(future: Any, task: Task) -> Outcome | None:
    """The outcome in a future that ended; None when its workers died again and again.

    Raises:
        TargetError: ``dask-lost``.
    """
    while future.status == "lost":  # its worker died before we had it, perhaps again: it is made again
        future.exception()  # waits for the end
    if future.status == "finished":
        return future.result()
    if future.status != "error":
        raise TargetError(
            f"{task.name}: the Dask scheduler went away ({future.status}): start it and run the same command again, "
            "finished cells stay finished",
            code="dask-lost",
        )
    return None


def perform(
    task: Task, before: Outcome | Mapping[str, bytes] | None, work: str, shipped: str | None, version: str
) -> Outcome:
    """What a Dask worker runs: one task, in the shared folder, or in one of its own when the data were shipped.

    Args:
        before: the outcome of the task's training, or the files of its run where that was finished before.
        shipped: the key of the shipment.
    """
    if version != __version__:
        return failed(
            task.name,
            "worker-version",
            f"{socket.gethostname()}: expected edge_derm {version} as on the sweep's machine, got {__version__}: update the worker",
        )
    if isinstance(before, Outcome):
        if before.error is not None:
            return inherited(task, before)
        before = before.files
    with _one_at_a_time, _place(task, before, shipped) as here:
        if not (here.folder / "sweep.json").is_file():
            return failed(
                task.name,
                "sweep-folder",
                f"{socket.gethostname()}: expected the sweep's folder at {here.folder}, found none: share it under the same "
                "path, or start the sweep with --ship",
            )
        outcome = attempt(here, worker.find(work))
        if shipped is None:
            return outcome
        made = here.folder / here.place
        return replace(outcome, files=pack(made) if made.is_dir() and outcome.error is None else None)


@contextlib.contextmanager
def _place(task: Task, run: Mapping[str, bytes] | None, shipped: str | None) -> Iterator[Task]:
    """The task as this worker sees it: as it is, or with its paths into what was shipped here."""
    if shipped is None:
        yield task
        return
    from distributed import get_worker

    home = Path(get_worker().local_directory) / shipped
    with tempfile.TemporaryDirectory(dir=home, prefix="work-") as folder:
        files.write_text(Path(folder) / "sweep.json", "{}\n")
        if run is not None and task.after is not None:
            unpack(run, Path(folder) / RUNS / task.after)
        yield Shipment.localise(replace(task, folder=Path(folder)), home)

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

    Raises:
        TargetError: ``dask-unreachable``, ``dask-lost`` (the scheduler went away; what is finished stays finished).
    """
    from distributed import Client, as_completed

    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_S, set_as_default=False))
        except (OSError, ValueError, TimeoutError) as error:
            raise TargetError(
                f"--dask {address}: expected a Dask scheduler, got no answer ({' '.join(str(error).split())[:200]}): "
                "start one with 'dask scheduler' and its workers with 'dask worker ADDRESS'",
                code="dask-unreachable",
            ) from error
        if not client.scheduler_info(n_workers=-1)["workers"]:
            say(f"waiting for workers at {address}: start some with 'dask worker {address} --nthreads 1'")
        if shipment is not None:
            client.register_plugin(shipment.plugin())
        futures: dict[Any, Task] = {}
        by_name: dict[str, Any] = {}
        for task in tasks:
            before = by_name.get(str(task.after))
            if before is None and shipment is not None and task.after is not None:
                before = pack(folder / RUNS / task.after)
            future = client.submit(
                perform, task, before, work, shipment and shipment.key, __version__, pure=False, retries=0
            )
            futures[future] = task
            by_name[task.name] = future
        for future in as_completed(list(futures), loop=client.loop):
            task = futures.pop(future)
            yield told(future, task)
            future.release()


def told(future: Any, task: Task) -> Outcome:
    """The outcome in a future; the failure of one whose workers died again and again."""
    if future.status == "finished":
        return future.result()
    if future.status != "error":
        raise TargetError(
            f"{task.name}: the Dask scheduler went away ({future.status}): start it and run the same command again, "
            "finished cells stay finished",
            code="dask-lost",
        )
    return failed(task.name, "worker-died", f"{task.name}: {future.exception()}")


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

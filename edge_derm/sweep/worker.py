"""A worker process: tasks in on standard input, outcomes out on standard output, one line of JSON each.

    python -m edge_derm.sweep.worker FOLDER CORES MODULE:FUNCTION COMMAND…

It keeps what is slow to load from one task to the next, writes what a task says to the task's own log, computes on its own
CORES (``0,1``), and ends with its standard input, so it never outlives the sweep.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Iterator, TextIO

from .cells import Task
from .work import Work, attempt

LOGS = "logs"


def main() -> None:
    """Serve until standard input ends."""
    folder, cores, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    sys.argv[:] = sys.argv[4:]  # the sweep's command: bundles made here say how they were made
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    work = find(name)
    for task in requests(sys.stdin):
        with log(folder / LOGS / f"{task.name}.txt"):
            outcome = attempt(task, work)
        answers.write(outcome.dumps() + "\n")


def find(name: str) -> Work:
    """The function ``MODULE:FUNCTION``."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def requests(lines: TextIO) -> Iterator[Task]:
    """Tasks as they come. The end of the lines ends the process, whatever it is at: its sweep is gone."""
    waiting: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in lines:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield Task.loads(waiting.get())


@contextlib.contextmanager
def log(path: Path) -> Iterator[None]:
    """Descriptors 1 and 2, native libraries included, into ``path`` (appended to)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


if __name__ == "__main__":
    main()

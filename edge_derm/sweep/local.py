"""Tasks on this machine: worker processes that live from task to task, and whose death costs one attempt.

A worker that dies (a segfault, the out-of-memory killer) is replaced, and its task tried once more; then it has failed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import time
from collections import deque
from pathlib import Path
from subprocess import Popen
from typing import Generator, Sequence

from ..measure import process
from .cells import Outcome, Task, failed
from .worker import LOGS

ATTEMPTS = 2
RENEW = 40  # tasks: what TensorFlow keeps of every model adds up, a fresh process starts from nothing


class Worker:
    """One process and the task it is at."""

    def __init__(self, folder: Path, cores: Sequence[int], work: str) -> None:
        self._command = [
            sys.executable,
            "-m",
            "edge_derm.sweep.worker",
            str(folder),
            ",".join(map(str, cores)),
            work,
        ]
        self._stack = contextlib.ExitStack()
        self._process: Popen[bytes] | None = None
        self._begun = 0.0
        self._served = 0
        self.task: Task | None = None

    def begin(self, task: Task) -> int:
        """Hand over a task; the descriptor on which the outcome, or the end of the process, will show."""
        if self._process is None or self._served >= RENEW:
            self.end()
            alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as Dask starts its workers
            starting = process.started([*self._command, *sys.argv], what="sweep worker", environment=alone)
            self._process = self._stack.enter_context(starting)
            self._served = 0
        assert self._process.stdin and self._process.stdout
        self._begun, self.task = time.monotonic(), task
        self._served += 1
        with contextlib.suppress(BrokenPipeError):  # dead already: its standard output says so
            self._process.stdin.write(task.dumps().encode() + b"\n")
            self._process.stdin.flush()
        return self._process.stdout.fileno()

    def outcome(self) -> Outcome | None:
        """What the worker says; None when it died instead."""
        assert self._process and self._process.stdout and self.task
        line = self._process.stdout.readline()
        return Outcome.loads(line) if line.endswith(b"\n") else None

    def obituary(self, folder: Path) -> Outcome:
        """The outcome of a task whose worker died."""
        assert self._process and self.task
        status = self._process.wait()
        path = folder / LOGS / f"{self.task.name}.txt"
        said = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        error = process.failure(self.task.name, status, said)
        return failed(self.task.name, error.code, str(error), time.monotonic() - self._begun)

    def end(self) -> None:
        """Kill the process, if there is one, with all it started."""
        self._stack.close()
        self._process = None


def run(tasks: Sequence[Task], *, folder: Path, workers: int, work: str) -> Generator[Outcome, None, None]:
    """Outcomes as they come. A cell whose training failed fails with it.

    Args:
        tasks: a training before its cells; a task whose ``after`` is not among them may begin at once.
        workers: processes; this process's cores are shared out among them.
        work: ``module:function`` that a worker calls with each task.
    """
    waiting = Waiting(tasks)
    crew = [Worker(folder, cores, work) for cores in shares(workers)]
    idle, attempts = list(crew), dict.fromkeys((task.name for task in tasks), 0)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(selectors.DefaultSelector())
        for worker in crew:
            stack.callback(worker.end)
        while True:
            while idle and waiting.ready:
                worker, task = idle.pop(), waiting.ready.popleft()
                attempts[task.name] += 1
                watch.register(worker.begin(task), selectors.EVENT_READ, worker)
            if len(idle) == len(crew):
                return
            for key, _ in watch.select():
                watch.unregister(key.fd)
                worker, task = key.data, key.data.task
                idle.append(worker)
                outcome = worker.outcome()
                if outcome is None:
                    outcome = worker.obituary(folder)
                    worker.end()
                    if attempts[task.name] < ATTEMPTS:
                        waiting.ready.appendleft(task)
                        continue
                yield outcome
                yield from waiting.after(outcome)


class Waiting:
    """Tasks that may begin, and those that wait for their training."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        names = {task.name for task in tasks}
        self.ready = deque(task for task in tasks if task.after not in names)
        self._later: dict[str, list[Task]] = {}
        for task in tasks:
            if task.after in names:
                self._later.setdefault(str(task.after), []).append(task)

    def after(self, outcome: Outcome) -> list[Outcome]:
        """Let the cells of a finished training begin, before other trainings; or fail them with it."""
        cells = self._later.pop(outcome.name, [])
        if outcome.error is not None:
            return [inherited(task, outcome) for task in cells]
        self.ready.extendleft(reversed(cells))
        return []


def inherited(task: Task, training: Outcome) -> Outcome:
    """The failure of a cell whose training failed."""
    assert training.error
    message = f"its training {training.name} failed: {training.error['message']}"
    return failed(task.name, training.error["code"], message)


def usable_cores() -> list[int]:
    """Numbers of the cores this process may run on."""
    return (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    )


def shares(workers: int) -> list[list[int]]:
    """This process's cores shared out, each to as few workers as can be."""
    cores = usable_cores()
    if workers >= len(cores):
        return [[cores[at % len(cores)]] for at in range(workers)]
    return [cores[at::workers] for at in range(workers)]

"""Child processes that leave nothing behind: their own process group, a deadline, and an error that says how they ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Iterator, Mapping, Sequence

from edge_derm.errors import TargetError


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> bytes:
    """Standard output of ``command``; the whole process group is gone when this returns or raises.

    Args:
        what: names the step in messages, ``qemu:cortex-a72``.
        timeout_s: after this many seconds the group is killed.
        environment: replaces the environment; None passes on this process's.

    Raises:
        TargetError: ``process-missing``, ``process-timeout``, ``process-killed``, ``process-crashed``, ``process-failed``.
    """
    with started(command, what=what, environment=environment) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise TargetError(
                f"{what}: expected an end within {timeout_s:g} s, stopped it after that: is this machine overloaded?",
                code="process-timeout",
            ) from None
    if process.returncode:
        raise failure(what, process.returncode, err.decode("utf-8", "replace"))
    return out


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], *, what: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """``command`` in a session of its own with three pipes; killed, with its children, on the way out.

    The kernel kills it too if this process is killed outright (``setpriv --pdeathsig`` of util-linux).
    """
    program = shutil.which(command[0])
    if program is None:
        raise TargetError(
            f"{what}: expected the program {command[0]}, found none: install it", code="process-missing"
        )
    die_together = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    process = subprocess.Popen(
        [*die_together, program, *(str(word) for word in command[1:])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            kill_group(process.pid)
            if process.stdin is not None:
                with contextlib.suppress(OSError):  # unsent bytes must not hide why it ended
                    process.stdin.close()


def kill_group(pid: int) -> None:
    """Kill the process group of a session's leader, if anything of it is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def failure(what: str, status: int, said: str) -> TargetError:
    """How a process ended, from its negative signal or exit status, with the last line it said."""
    last = ([line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"])[-1][:300]
    if status in (-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS, -signal.SIGABRT):
        name = signal.Signals(-status).name
        return TargetError(f"{what}: the program inside crashed ({name}): {last}", code="process-crashed")
    if status < 0:
        return TargetError(
            f"{what}: expected it to finish, but it was killed by {signal.Signals(-status).name}: run it again; if "
            "you did not do that, look for the out-of-memory killer in 'dmesg'",
            code="process-killed",
        )
    return TargetError(f"{what}: failed with exit status {status}: {last}", code="process-failed")

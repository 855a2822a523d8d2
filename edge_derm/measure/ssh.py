"""Targets ``ssh://user@host[:port]``: a real board. One connection of the system's own ssh client carries everything.

The client reads the user's configuration, keys and known hosts; it is never asked for a password (``BatchMode``), and a host
whose key is not known is refused. ``EDGE_DERM_SSH`` names another client with options, as ``GIT_SSH_COMMAND`` does for git.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge_derm.errors import TargetError
from edge_derm.measure import record, visit
from edge_derm.measure.models import read_model
from edge_derm.measure.targets import Target

TEMPLATE = "ssh://user@host[:port]"
CLIENT_VARIABLE = "EDGE_DERM_SSH"
# A host never starts with "-": ssh would read it as an option (CVE-2017-1000117).
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
)
_ALWAYS = (
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
)


@dataclass(frozen=True)
class Address:
    """Where to connect, and with what: ``client`` and ``python`` are None where the environment decides."""

    host: str
    user: str | None = None
    port: int | None = None
    client: tuple[str, ...] | None = None  # the ssh client with its options
    python: str | None = None  # the interpreter there

    def __str__(self) -> str:
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port else ""
        return f"ssh://{user}{f'[{self.host}]' if ':' in self.host else self.host}{port}"

    def command(self) -> list[str]:
        """The client and its options, up to and with the host. Raises TargetError ``ssh-client``."""
        client = self.client or _client()
        port = [] if self.port is None else ["-p", str(self.port)]
        user = [] if self.user is None else ["-l", self.user]
        return [*client, *_ALWAYS, *port, *user, "--", self.host]


def parse(name: str) -> Address:
    """The address in ``ssh://[user@]host[:port]``. Raises TargetError ``ssh-address``."""
    match = _ADDRESS.fullmatch(name)
    if match is None or not 0 < int(match["port"] or 22) < 65536:
        raise TargetError(f"target: expected {TEMPLATE}, got {name!r}", code="ssh-address")
    return Address(match["host"].strip("[]"), match["user"], int(match["port"]) if match["port"] else None)


def targets() -> list[Target]:
    """The shape of an address: any board may be one."""
    return [Target(TEMPLATE, "ssh", _ready, _no_bench)]


def find(name: str) -> Target:
    """The board at an address. Raises TargetError ``ssh-address``."""
    return Target(name, "ssh", _ready, partial(bench, parse(name)))


def bench(
    address: Address,
    path: Path,
    *,
    compare: Path | None = None,
    runs: int = 200,
    backend: str = "litert",
    threads: int = 1,
    profile: bool = False,
    soak_min: float | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Measure on the board as ``local`` does here; nothing is left there.

    Args:
        address: where the board is.
        path, compare: bundle folders or bare .tflite files of this machine.
        others: those of ``local.bench``.

    Returns:
        The ``bench`` record that the board made, with the names this machine knows.

    Raises:
        TargetError: those of ``visit.visit``; ``bench-missing``. BundleError: a model must not be sent.
    """
    for each in filter(None, (path, compare)):
        read_model(each)  # verified here before it goes anywhere
    made = visit.bench(
        address,
        path,
        compare=compare,
        runs=runs,
        backend=backend,
        threads=threads,
        profile=profile,
        soak_min=soak_min,
        command=command,
    )
    made.update(target=str(address), model=str(path))
    if compare is not None:
        made["other"]["model"] = str(compare)
    return record.check(made)


def _ready() -> tuple[bool, str | None]:
    try:
        program = _client()[0]
    except TargetError:
        return False, f"unset {CLIENT_VARIABLE}"
    if shutil.which(program) is not None:
        return True, None
    return False, "sudo apt-get install openssh-client" if program == "ssh" else f"unset {CLIENT_VARIABLE}"


def _client() -> list[str]:
    named = os.environ.get(CLIENT_VARIABLE, "")
    try:
        return shlex.split(named) or ["ssh"]
    except ValueError as error:
        raise TargetError(
            f"{CLIENT_VARIABLE}: expected a command as a shell takes it, got {named!r} ({error}): correct it or unset it",
            code="ssh-client",
        ) from None


def _no_bench(path: Path, **options: Any) -> dict[str, Any]:
    raise TargetError(
        f"target: expected {TEMPLATE} with a board's name in it, got {TEMPLATE}", code="ssh-address"
    )

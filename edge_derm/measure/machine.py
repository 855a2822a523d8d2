"""The emulated board while it runs: started from the cached image, reached over SSH on loopback, stopped, nothing left.

By default its disk forgets everything when it stops, so every start finds the same machine. Its memory, processes and services are
those of a real Linux; its time is not (the emulator is some ten times slower and shares this machine).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from edge_derm import files
from edge_derm.errors import EdgeDermError, TargetError
from edge_derm.measure import image, process, system
from edge_derm.measure.ssh import Address

NAME = "board:virt-a72"
EMULATOR = "qemu-system-aarch64"
CPU, CORES, MEMORY_MB = "cortex-a72", 2, 1024
BOOT_S = 600
GONE_S = 5
_KERNEL = (
    "console=ttyAMA0 root=/dev/vda rw panic=-1 quiet systemd.show_status=0 systemd.condition-needs-update=0"
)


@dataclass(frozen=True)
class Machine:
    """A running board: where to reach it, and the process that is it."""

    address: Address
    pid: int


@contextlib.contextmanager
def running(*, disk: Path | None = None, counting: bool = False, boot_s: float = BOOT_S) -> Iterator[Machine]:
    """Start the board, wait for its sshd, and stop it on the way out.

    Args:
        disk: keep what is written on this copy of the image; None: forget it.
        counting: one core whose clock advances one nanosecond an instruction (QEMU's ``-icount shift=0``).
        boot_s: how long its sshd may take to answer.

    Raises:
        TargetError: ``machine-boot``: no answer in time, with the last line of its console; ``process-killed`` and others of
            ``process.failure``: the emulator ended, also while the board was in use; ``machine-key``: this disk and the keys in
            the cache do not belong together.
    """
    port = _free_port()
    # A file without a name: nothing of it stays, however this process ends.
    with tempfile.TemporaryFile() as unnamed:
        console = Path(f"/proc/{os.getpid()}/fd/{unnamed.fileno()}")
        command = _command(port, console, disk=disk, counting=counting)
        with process.started(command, what=NAME) as emulator:
            machine = Machine(_address(port), emulator.pid)
            _await_login(emulator, machine.address, console, boot_s)
            try:
                yield machine
            except TargetError as error:
                if error.code in ("ssh-lost", "ssh-unreachable") and _gone(emulator):
                    raise _ending(emulator, console) from error
                raise
            finally:
                if disk is not None and emulator.poll() is None:
                    _power_off(emulator, machine.address)


def _command(port: int, console: Path, *, disk: Path | None, counting: bool) -> list[str | Path]:
    parts = image.folder()
    forget = "off" if disk else "on"
    source = str(disk or parts / "disk").replace(",", ",,")
    return [
        EMULATOR,
        *("-M", "virt", "-cpu", CPU, "-m", str(MEMORY_MB), "-smp", "1" if counting else str(CORES)),
        *(("-icount", "shift=0") if counting else ()),
        *("-display", "none", "-monitor", "none", "-no-reboot", "-serial", f"file:{console}"),
        *("-kernel", parts / "kernel", "-initrd", parts / "initramfs", "-append", _KERNEL),
        *("-drive", f"if=none,id=disk,format=raw,snapshot={forget},file={source}"),
        *("-device", "virtio-blk-device,drive=disk", "-device", "virtio-rng-device"),
        *(
            "-netdev",
            f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
            "-device",
            "virtio-net-device,netdev=net",
        ),
    ]


def client() -> tuple[str, ...]:
    """The ssh client with the options that let it into the board and nowhere else."""
    parts = str(image.folder()).replace("%", "%%")  # ssh_config(5): tokens, and quotes around spaces
    key = ("-o", f'IdentityFile="{parts}/key"', "-o", "IdentitiesOnly=yes")
    known = ("-o", f"HostKeyAlias={system.HOST}", "-o", f'UserKnownHostsFile="{parts}/known_hosts"')
    # No update of the known hosts, and patience: two emulated cores may be busy.
    patience = ("-o", "ConnectTimeout=60", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=20")
    return ("ssh", "-F", "none", *key, *known, "-o", "UpdateHostKeys=no", *patience)


def _address(port: int) -> Address:
    return Address("127.0.0.1", system.USER, port, client(), "python3")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_login(emulator: subprocess.Popen[bytes], address: Address, console: Path, boot_s: float) -> None:
    end, got = time.monotonic() + boot_s, "silence"
    while time.monotonic() < end:
        if emulator.poll() is not None:
            raise _ending(emulator, console)
        with contextlib.suppress(OSError), socket.create_connection(
            (address.host, address.port), 5
        ) as greeting:
            greeting.settimeout(20)  # the emulator accepts for the board before anything listens there
            if greeting.recv(4) == b"SSH-":
                refusal = _refusal(address)
                if refusal is None:
                    return
                got = refusal
        time.sleep(1)
    raise TargetError(
        f"{NAME}: expected its sshd to answer within {boot_s:g} s, got {got}; its console ends with: {_tail(console)}",
        code="machine-boot",
    )


def _refusal(address: Address) -> str | None:
    """Why no user gets in yet, or None: sshd answers a moment before the system allows logins (nologin(5)).

    Raises:
        TargetError: what no waiting mends: ``process-missing``, ``machine-key``.
    """
    try:
        process.run([*address.command(), "true"], what=str(address), timeout_s=120)
    except TargetError as error:
        if error.code == "process-missing":
            raise
        if re.search("Host key verification failed|Permission denied", str(error)):
            raise TargetError(
                f"{NAME}: expected a disk that belongs to the keys in the cache, but {error}: is it a kept disk of another image? "
                f"Start with another one; else remove {image.folder()} and run 'edge-derm targets --prepare {NAME}'",
                code="machine-key",
            ) from None
        return str(error)
    return None


def _gone(emulator: subprocess.Popen[bytes]) -> bool:
    """Whether the emulator has ended; its connections end a moment before it does."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        emulator.wait(GONE_S)
    return emulator.poll() is not None


def _ending(emulator: subprocess.Popen[bytes], console: Path) -> TargetError:
    """How the emulator ended: in its own words, else in the board's last ones."""
    assert emulator.stderr is not None
    said = emulator.stderr.read().decode("utf-8", "replace")
    if emulator.returncode == 0:
        return TargetError(
            f"{NAME}: expected it to run on, but it was switched off; its console ends with: {_tail(console)}: run it again",
            code="machine-off",
        )
    return process.failure(NAME, emulator.returncode, said if said.strip() else _tail(console))


def _tail(console: Path) -> str:
    lines = console.read_text("utf-8", "replace").split("\n") if console.is_file() else []
    return ([line.strip() for line in lines if line.strip()] or ["nothing"])[-1][-200:]


def _power_off(emulator: subprocess.Popen[bytes], address: Address) -> None:
    with contextlib.suppress(TargetError):  # the connection ends with the machine
        process.run([*address.command(), "sudo systemctl poweroff"], what=str(address), timeout_s=120)
    with contextlib.suppress(subprocess.TimeoutExpired):
        emulator.wait(300)


def main() -> None:
    """``python -m edge_derm.measure.machine [DISK]``: run the board until Ctrl-C, and say how to reach it."""
    parser = argparse.ArgumentParser(
        prog="scripts/board",
        description="Run the emulated arm64 board until Ctrl-C, and say how to reach it.",
    )
    parser.add_argument(
        "disk",
        metavar="DISK",
        nargs="?",
        type=Path,
        help="a file that keeps what is written, made where it is not",
    )
    disk = parser.parse_args().disk
    for number in (signal.SIGTERM, signal.SIGHUP):  # told to stop, or its terminal closed (not under nohup)
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            _run(disk)
    except (EdgeDermError, OSError) as error:
        sys.exit(f"edge-derm: {error}")


def _run(disk: Path | None) -> None:
    image.prepare()
    if disk is not None and not disk.exists():
        with files.replace_file(disk) as fresh:
            process.run(
                ["cp", "--sparse=always", image.folder() / "disk", fresh], what=str(disk), timeout_s=600
            )
    with running(disk=disk) as machine:
        print(f"export EDGE_DERM_SSH={shlex.quote(shlex.join(client()))}")
        print(
            f"# the board is {machine.address}; by hand: {shlex.join(machine.address.command())}",
            flush=True,
        )
        _await_end(machine)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _await_end(machine: Machine) -> None:
    """Wait until the board is switched off. Raises TargetError, as ``process.failure`` does, where its emulator failed."""
    ended = os.waitid(os.P_PID, machine.pid, os.WEXITED | os.WNOWAIT)
    if ended is not None and ended.si_status:
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        raise process.failure(NAME, status, "")


if __name__ == "__main__":
    main()

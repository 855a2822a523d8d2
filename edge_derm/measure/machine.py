"""The emulated board while it runs: started from the cached image, reached over SSH on loopback, stopped, nothing left.

By default its disk forgets everything when it stops, so every start finds the same machine. Its memory, processes and services are
those of a real Linux; its time is not (the emulator is some ten times slower and shares this machine).
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from edge_derm import files
from edge_derm.errors import EdgeDermError, TargetError
from edge_derm.measure import image, process, system
from edge_derm.measure.ssh import Address

EMULATOR = "qemu-system-aarch64"
CPU, CORES, MEMORY_MB = "cortex-a72", 2, 1024
BOOT_S = 600
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
            ``process.failure``: the emulator ended.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory() as work:
        console = Path(work) / "console"
        command = _command(port, console, disk=disk, counting=counting)
        with process.started(command, what="board:virt-a72") as emulator:
            machine = Machine(_address(port), emulator.pid)
            _await_login(emulator, machine.address, console, boot_s)
            try:
                yield machine
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
    parts = image.folder()
    key = ("-i", f"{parts}/key", "-o", "IdentitiesOnly=yes")
    known = ("-o", f"HostKeyAlias={system.HOST}", "-o", f"UserKnownHostsFile={parts}/known_hosts")
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
    end = time.monotonic() + boot_s
    while time.monotonic() < end:
        if emulator.poll() is not None:
            assert emulator.stderr is not None
            said = emulator.stderr.read().decode("utf-8", "replace") + _tail(console)
            raise process.failure("board:virt-a72", emulator.returncode, said)
        with contextlib.suppress(OSError), socket.create_connection(
            (address.host, address.port), 5
        ) as greeting:
            greeting.settimeout(20)  # the emulator accepts for the board before anything listens there
            if greeting.recv(4) == b"SSH-" and _lets_in(address):
                return
        time.sleep(1)
    raise TargetError(
        f"board:virt-a72: expected its sshd to answer within {boot_s:g} s, got silence; its console ends with: {_tail(console)}",
        code="machine-boot",
    )


def _lets_in(address: Address) -> bool:
    """Whether a user gets in: sshd answers a moment before the system allows logins (nologin(5))."""
    try:
        process.run([*address.command(), "true"], what=str(address), timeout_s=120)
    except TargetError:
        return False
    return True


def _tail(console: Path) -> str:
    lines = console.read_text("utf-8", "replace").split("\n") if console.is_file() else []
    return ([line.strip() for line in lines if line.strip()] or ["nothing"])[-1][-200:]


def _power_off(emulator: subprocess.Popen[bytes], address: Address) -> None:
    with contextlib.suppress(TargetError):  # the connection ends with the machine
        process.run([*address.command(), "sudo systemctl poweroff"], what=str(address), timeout_s=120)
    with contextlib.suppress(subprocess.TimeoutExpired):
        emulator.wait(300)


def main() -> None:
    """``python -m edge_derm.measure.machine [DISK]``: run the board until Ctrl-C, and say how to reach it.

    DISK is a file that keeps what is written; it is copied from the image where it does not exist.
    """
    disk = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        image.prepare()
        if disk is not None and not disk.exists():
            with files.replace_file(disk) as fresh:
                process.run(
                    ["cp", "--sparse=always", image.folder() / "disk", fresh], what=str(disk), timeout_s=600
                )
        with contextlib.suppress(KeyboardInterrupt), running(disk=disk) as machine:
            print(f"export EDGE_DERM_SSH={shlex.quote(shlex.join(client()))}")
            print(
                f"# the board is {machine.address}; by hand: {shlex.join(machine.address.command())}",
                flush=True,
            )
            signal.pause()
    except EdgeDermError as error:
        sys.exit(f"edge-derm: {error}")


if __name__ == "__main__":
    main()

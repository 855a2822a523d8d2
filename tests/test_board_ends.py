"""How a board ends, or never starts: its emulator, its keys, the program that runs it. Programs stand in for the emulator."""

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import board_server
from edge_derm.errors import TargetError
from edge_derm.measure import image, machine, process, system
from edge_derm.measure.ssh import Address
from processes import alive, wait_for

STAY = ["sleep", f"7{os.getpid()}"]  # nobody else sleeps so long
STAND_IN = f"""
from pathlib import Path
from edge_derm.measure import image, machine
image.prepare = lambda: None
image.folder = lambda: Path("/nowhere")
machine._await_login = lambda *words: None
machine._power_off = lambda emulator, address: print("powered off", flush=True)
machine._command = lambda *words, **choices: {STAY!r}
machine.main()
"""


@pytest.fixture
def emulator(monkeypatch, tmp_path):
    """Puts a program in the place of the emulator."""

    def put(*command):
        monkeypatch.setattr(image, "folder", lambda: tmp_path)
        monkeypatch.setattr(machine, "_command", lambda *words, **choices: list(command))

    return put


def refused(**choices):
    with pytest.raises(TargetError) as caught:
        with machine.running(**choices):
            raise AssertionError("it never ran")
    return caught.value.code, str(caught.value)


def test_an_emulator_that_refuses_to_start_is_quoted(emulator):
    """A port that is taken, a disk in use by another board: QEMU says it, in its last line."""
    emulator("sh", "-c", 'echo "qemu: could not set up forwarding" >&2; exit 1')
    assert refused() == (
        "process-failed",
        "board:virt-a72: failed with exit status 1: qemu: could not set up forwarding",
    )


@pytest.mark.parametrize("code", ["ssh-lost", "ssh-unreachable"])
def test_an_emulator_that_is_killed_in_use_is_told_from_a_board_out_of_reach(emulator, monkeypatch, code):
    emulator(*STAY)
    monkeypatch.setattr(machine, "_await_login", lambda *words: None)
    monkeypatch.setattr(machine, "GONE_S", 0.5)
    for kill, expected in ((True, "process-killed"), (False, code)):
        with pytest.raises(TargetError) as caught:
            with machine.running() as started:
                if kill:
                    os.kill(started.pid, signal.SIGKILL)
                raise TargetError("ssh://pi@127.0.0.1:1: the connection was lost", code=code)
        assert caught.value.code == expected
    assert not alive(" ".join(STAY))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with board_server.serving(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.mark.parametrize(
    "words", [{"known": "changed"}, {"key": "stranger"}], ids=["its key is another", "ours is refused"]
)
def test_a_disk_that_the_cached_keys_do_not_open_is_not_waited_for(emulator, monkeypatch, server, words):
    """A kept disk of another image. The answer comes at once, not after ten minutes of trying."""
    emulator(*STAY)
    monkeypatch.setattr(machine, "_free_port", lambda: server.port)
    monkeypatch.setattr(machine, "client", lambda: tuple(shlex.split(server.client(**words))))
    code, message = refused(boot_s=60)
    assert code == "machine-key" and "kept disk" in message and "--prepare board:virt-a72" in message


def test_a_board_that_lets_nobody_in_is_given_up_with_what_it_said(emulator, monkeypatch, tmp_path):
    def greet(listener):
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as each:
                    each.sendall(b"SSH-2.0-x\r\n")

    client = tmp_path / "client"
    client.write_text('#!/bin/sh\necho "System is booting up" >&2\nexit 255\n')
    client.chmod(0o755)
    emulator(*STAY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, args=(listener,), daemon=True).start()
        monkeypatch.setattr(machine, "_free_port", lambda: listener.getsockname()[1])
        monkeypatch.setattr(machine, "client", lambda: (str(client),))
        code, message = refused(boot_s=0.5)
        listener.shutdown(socket.SHUT_RDWR)
    assert code == "machine-boot" and "System is booting up" in message


def test_without_an_ssh_client_the_board_is_not_ready(monkeypatch, tmp_path):
    for part in image.PARTS:
        (tmp_path / part).touch()
    monkeypatch.setattr(image, "folder", lambda: tmp_path)
    monkeypatch.setattr(image, "which", lambda tool: None if tool == "ssh" else f"/usr/bin/{tool}")
    assert image.missing() == "sudo apt-get install --no-install-recommends openssh-client"
    (tmp_path / "disk").unlink()
    assert image.missing().endswith("edge-derm targets --prepare board:virt-a72")


def test_an_ssh_client_that_is_missing_after_all_is_not_waited_for(emulator, monkeypatch, server):
    emulator(*STAY)
    monkeypatch.setattr(machine, "_free_port", lambda: server.port)
    monkeypatch.setattr(machine, "client", lambda: ("no-such-client",))
    assert refused(boot_s=60)[0] == "process-missing"


@pytest.mark.parametrize("name", ["plain", "a b", "100%h"])
def test_the_client_finds_its_files_wherever_the_cache_is(monkeypatch, tmp_path, server, name):
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(server.folder / "key", folder / "key")
    (folder / "known_hosts").write_text(f"{system.HOST} {(server.folder / 'host.pub').read_text()}")
    monkeypatch.setattr(image, "folder", lambda: folder)
    address = Address("127.0.0.1", getpass.getuser(), server.port, machine.client())
    assert process.run([*address.command(), "echo in"], what="board", timeout_s=60) == b"in\n"


@pytest.fixture
def script(tmp_path):
    """scripts/board, its emulator a stand-in; no process and no file of it may be there afterwards."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", STAND_IN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as started:
        assert started.stdout.readline().startswith("export EDGE_DERM_SSH=")
        yield started
        started.kill()
    wait_for(lambda: not alive(" ".join(STAY)), 10)
    assert list(tmp_path.iterdir()) == []


def test_the_script_ends_when_its_emulator_is_killed(script):
    for pid in alive(" ".join(STAY)):
        os.kill(pid, signal.SIGKILL)
    _, said = script.communicate(timeout=20)
    assert script.returncode == 1 and said.startswith("edge-derm: board:virt-a72: ") and "SIGKILL" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_script_that_is_stopped_leaves_nothing(script, number):
    script.send_signal(number)
    _, said = script.communicate(timeout=20)
    assert script.returncode == (-number if number == signal.SIGKILL else 0) and said == ""


def test_a_kept_disk_is_powered_off_when_the_script_is_told_to_stop(tmp_path):
    disk = tmp_path / "disk"
    disk.touch()
    with subprocess.Popen(
        [sys.executable, "-c", STAND_IN, disk], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        started.stdout.readline()
        started.terminate()
        said, _ = started.communicate(timeout=20)
    assert started.returncode == 0 and said.endswith("powered off\n")


def test_the_script_explains_itself_instead_of_making_a_disk(tmp_path):
    command = [sys.executable, "-m", "edge_derm.measure.machine", "--help"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(machine.__file__).parents[2]),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=30)
    assert said.returncode == 0 and "DISK" in said.stdout and list(tmp_path.iterdir()) == []

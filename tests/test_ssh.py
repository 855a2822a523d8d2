"""Boards over SSH, against a real sshd: the record of a board, a message for each way it can go wrong, and nothing left there."""

import dataclasses
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import board_server
from edge_derm.deploy import session
from edge_derm.errors import BackendError, TargetError
from edge_derm.measure import payload, record, ssh, targets, visit
from processes import alive, children, wait_for

CLI = [sys.executable, "-c", "from edge_derm.cli import main; main()"]
MARK = f"time.sleep(60 + 0 * {os.getpid()})"  # nobody else sleeps like this
SLEEP = ["-c", f"import time; {MARK}"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with board_server.serving(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def board(server, monkeypatch):
    """The server, this user's client pointed at it, and this Python as the board's."""
    monkeypatch.setenv("EDGE_DERM_SSH", server.client())
    monkeypatch.setenv(visit.PYTHON_VARIABLE, sys.executable)
    yield server
    wait_for(lambda: not list(server.temporary.iterdir()), 10)  # whatever the test did, nothing stays


def address(board):
    return ssh.parse(board.name)


def refused(call):
    with pytest.raises(TargetError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value.code, str(caught.value)


def python(folder, monkeypatch, line):
    """Make ``line`` the board's Python."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{line}\n")
    script.chmod(0o755)
    monkeypatch.setenv(visit.PYTHON_VARIABLE, str(script))


@pytest.mark.slow
def test_the_board_s_record_is_the_local_one_and_fits_the_schema(board, tiny_bundle, tmp_path):
    (tmp_path / "bare.tflite").write_bytes((tiny_bundle / "model.tflite").read_bytes())
    made = targets.bench(tiny_bundle, target=board.name, compare=tmp_path / "bare.tflite", runs=50)
    jsonschema.Draft202012Validator(record.schema()).validate(made)
    assert made["target"] == board.name and made["model"] == str(tiny_bundle)
    assert made["other"]["model"] == str(tmp_path / "bare.tflite") and made["ratio_of"] == "latency_ms"
    assert len(made["latency_ms"]["samples"]) >= 50 and made["memory"]["peak_rss_bytes"] > 0
    assert made["environment"].keys() >= {"governor", "clock_mhz", "temperature_c", "throttled", "tegrastats"}


def test_the_program_sent_needs_nothing_installed_but_numpy_and_the_engine(board):
    """-I -S: no installed package at all can stand in for the one that was sent."""
    script = "import sys, edge_derm, firmware_bridge; print(edge_derm.__file__, 'tensorflow' in sys.modules)"
    said = visit.visit(address(board), [(payload.RUNNER, payload.runner())], ["-c", script], modules=[])
    assert said.split() == [str(Path(said.split()[0])), "False"] and f"{payload.RUNNER}/edge_derm" in said
    assert str(board.temporary) in said


def test_the_program_sent_is_small_and_the_same_every_time():
    assert payload.runner() == payload.runner() and len(payload.runner()) < 500_000


def deploys(address, bundle):
    """The other conversation there is."""
    with session.connect(address):
        raise AssertionError("it never got there")


@pytest.mark.parametrize("talk", [ssh.bench, deploys])
@pytest.mark.parametrize("name", ["ssh://127.0.0.1:1", "ssh://no-such-board.invalid"])
def test_a_board_that_does_not_answer_is_told_from_one_that_is_not_known(board, tiny_bundle, name, talk):
    code, message = refused(lambda: talk(ssh.parse(name), tiny_bundle))
    assert code == "ssh-unreachable" and name in message


@pytest.mark.parametrize("talk", [ssh.bench, deploys])
@pytest.mark.parametrize(
    "client, code, advice",
    [
        ({"key": "stranger"}, "ssh-key", "ssh-copy-id -p"),
        ({"known": "unknown"}, "ssh-host-key-unknown", "compare the fingerprint"),
        ({"known": "changed"}, "ssh-host-key-changed", "ssh-keygen -R '[127.0.0.1]:"),
    ],
)
def test_a_wrong_key_on_either_side_is_named(board, monkeypatch, tiny_bundle, client, code, advice, talk):
    monkeypatch.setenv("EDGE_DERM_SSH", board.client(**client))
    got, message = refused(lambda: talk(address(board), tiny_bundle))
    assert got == code and advice in message


def test_a_file_size_limit_on_the_board_is_no_space(board, monkeypatch, tmp_path, tiny_bundle):
    python(tmp_path, monkeypatch, f'ulimit -f 8; exec {sys.executable} "$@"')
    code, message = refused(lambda: ssh.bench(address(board), tiny_bundle))
    assert code == "board-space" and "File too large" in message and "make room" in message


@pytest.mark.slow
def test_a_small_file_system_on_the_board_is_no_space(board, monkeypatch, tmp_path, tiny_bundle):
    mount = f"mount -t tmpfs -o size=64k none {board.temporary}"
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*own, mount], capture_output=True).returncode:
        pytest.xfail("this machine allows no mounts in a namespace of its own")
    python(tmp_path, monkeypatch, f"exec {' '.join(own)} '{mount} && exec {sys.executable} \"$@\"' sh \"$@\"")
    code, message = refused(lambda: ssh.bench(address(board), tiny_bundle))
    assert code == "board-space" and "free bytes" in message


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    board, monkeypatch, tmp_path, tiny_bundle
):
    python(tmp_path, monkeypatch, f'exec {sys.executable} -S "$@"')
    code, message = refused(lambda: ssh.bench(address(board), tiny_bundle))
    assert code == "board-package" and "-m pip install numpy flatbuffers ai-edge-litert" in message


def elf(machine):
    """The head of a shared library for a processor, by its number in the ELF specification."""
    return struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 64, 0, 0, 64, 56, 0, 64, 0, 0
    )


def test_a_package_for_another_processor_is_told_from_a_missing_one(
    board, monkeypatch, tmp_path, tiny_bundle
):
    """A virtual environment whose LiteRT holds a library for the other of x86-64 and arm64."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    folder = site / "ai_edge_litert"
    folder.mkdir()
    (folder / "__init__.py").touch()
    other = 62 if os.uname().machine == "aarch64" else 183
    (folder / "lib.so").write_bytes(elf(other))
    (folder / "interpreter.py").write_text(f"import ctypes\nctypes.CDLL({str(folder / 'lib.so')!r})\n")
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    monkeypatch.setenv(visit.PYTHON_VARIABLE, str(tmp_path / "venv/bin/python"))
    code, message = refused(lambda: ssh.bench(address(board), tiny_bundle))
    assert code == "board-package-broken" and "lib.so" in message and visit.PYTHON_VARIABLE in message


def test_a_board_without_python_says_so(board, monkeypatch, tiny_bundle):
    monkeypatch.setenv(visit.PYTHON_VARIABLE, "no-such-python")
    assert refused(lambda: ssh.bench(address(board), tiny_bundle))[0] == "board-no-python"


def test_a_python_that_must_not_be_run_is_no_wrong_key(board, monkeypatch, tmp_path, tiny_bundle):
    """The shell there says 'Permission denied' as ssh does of a key."""
    (tmp_path / "python").touch(0o644)
    for named in (tmp_path, tmp_path / "python"):
        monkeypatch.setenv(visit.PYTHON_VARIABLE, str(named))
        code, message = refused(lambda: ssh.bench(address(board), tiny_bundle))
        assert code == "board-no-python" and visit.PYTHON_VARIABLE in message and "ssh-copy-id" not in message


def test_an_option_of_another_target_is_refused_before_the_board_is_asked(monkeypatch, tiny_bundle):
    for name in ("ssh://127.0.0.1:1", "local:tflite-runtime"):
        ready = dataclasses.replace(targets.find_target(name), ready=lambda: (True, None))
        monkeypatch.setattr(targets, "find_target", lambda name: ready)
        code, message = refused(
            lambda: targets.bench(tiny_bundle, target=name, count_instructions=True, profile=True)
        )
        assert code == "target-option" and "got count_instructions:" in message
        monkeypatch.undo()


def test_an_error_raised_on_the_board_arrives_as_itself(board, tiny_bundle):
    with pytest.raises(BackendError, match=f"{board.name}: .*'moon'") as caught:
        ssh.bench(address(board), tiny_bundle, backend="moon")
    assert caught.value.code == "backend-unknown"


def test_what_a_login_script_prints_is_not_taken_for_an_answer(board, monkeypatch, tmp_path):
    python(
        tmp_path, monkeypatch, f'echo "Welcome to the board"; echo edge-derm >&2; exec {sys.executable} "$@"'
    )
    assert visit.visit(address(board), [], ["-c", "print(41 + 1)"], modules=[]) == "42\n"


@pytest.mark.parametrize("line", ["hello", "[1]", "{}", '{"at": 1}'])
def test_a_line_like_an_answer_that_is_none_is_passed_over(board, monkeypatch, tmp_path, line):
    python(tmp_path, monkeypatch, f"echo 'edge-derm: {line}'; exec {sys.executable} \"$@\"")
    assert visit.visit(address(board), [], ["-c", "print(41 + 1)"], modules=[]) == "42\n"


def measured_in_background(board, victim):
    """Kill what ``victim`` finds once a program runs on the board; the error that follows."""
    import threading

    def kill():
        mine = wait_for(lambda: alive(MARK))
        wait_for(lambda: list(board.temporary.iterdir()))
        for pid in victim(mine):
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = refused(lambda: visit.visit(address(board), [], SLEEP, modules=[]))
    killer.join()
    wait_for(lambda: not alive(MARK), 10)
    return found


@pytest.mark.slow
def test_a_program_killed_on_the_board_is_told_from_a_lost_connection(board):
    code, message = measured_in_background(
        board, lambda pids: [pid for pid, line in pids.items() if " -s -c " in line]
    )
    assert code == "board-killed" and "SIGKILL" in message


def sessions(board):
    """The server's processes that carry a connection: children of the listener, and theirs."""
    found = children(board.pid)
    return [*found, *(pid for parent in found for pid, name in children(parent).items() if "sshd" in name)]


@pytest.mark.slow
def test_a_lost_connection_is_named_and_leaves_nothing_on_the_board(board):
    code, message = measured_in_background(board, lambda pids: sessions(board))
    assert code == "ssh-lost" and "connection was lost" in message


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_leaves_nothing_on_the_board(board, number, tiny_bundle):
    command = [*CLI, "bench", str(tiny_bundle), "--target", board.name, "--runs", "1000000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    ) as running:
        wait_for(lambda: alive("edge_derm.measure.onboard job.json"))
        os.kill(running.pid, number)
        running.communicate(timeout=30)
    wait_for(
        lambda: not alive("edge_derm.measure.onboard job.json") and not alive(str(board.folder / "key")), 20
    )


def test_a_folder_whose_maker_was_killed_is_swept_at_the_next_visit(board):
    with subprocess.Popen(["true"]) as gone:
        pass
    dead, other = board.temporary / f"edge-derm-{gone.pid}-abc", board.temporary / "somebody-else"
    living = board.temporary / f"edge-derm-{os.getpid()}-abc"
    for folder in (dead, other, living):
        folder.mkdir()
    visit.visit(address(board), [], ["-c", ""], modules=[])
    assert not dead.exists() and other.exists() and living.exists()
    for folder in (other, living):
        folder.rmdir()


@pytest.mark.arm
@pytest.mark.slow
def test_a_32_bit_board_is_refused_by_name(board, monkeypatch, tmp_path, tiny_bundle):
    """Debian's own armhf Python, under emulation."""
    from edge_derm.measure import debian

    if shutil.which("qemu-arm") is None:
        pytest.skip("qemu-arm is not installed: sudo apt-get install qemu-user")
    packages = ["python3.11-minimal", "libpython3.11-stdlib"]
    try:
        archives = debian.download(packages, tmp_path / "work", architecture="armhf")
    except TargetError as error:
        pytest.skip(str(error))
    debian.unpack(archives, tmp_path / "root")
    emulated = (
        f"qemu-arm -L {tmp_path}/root -E PYTHONHOME={tmp_path}/root/usr {tmp_path}/root/usr/bin/python3.11"
    )
    python(tmp_path, monkeypatch, f'exec {emulated} "$@"')
    code, message = refused(lambda: ssh.bench(address(board), tiny_bundle))
    assert code == "board-machine" and "64-bit" in message and "armv7l" in message

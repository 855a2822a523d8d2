"""The whole emulated board: its first file system, its accounts, and a real machine that starts, is measured and leaves nothing."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from edge_derm.errors import TargetError
from edge_derm.measure import board, image, initramfs, machine, process, record, ssh, system, targets, visit
from processes import alive

SAME = {"images": 4, "max_difference": 0.0, "unit": "LSB", "decisions_changed": 0}
CLI = [sys.executable, "-c", "from edge_derm.cli import main; main()"]


def test_a_module_comes_after_those_it_needs(tmp_path):
    def module(name, needs):
        (tmp_path / f"{name}.ko").write_bytes(b"\x7fELF...\0license=GPL\0depends=" + needs + b"\0name=x\0")

    for name, needs in (
        ("virtio-blk", b"virtio,virtio_ring"),
        ("virtio", b""),
        ("virtio_ring", b"virtio"),
        ("rng", b"virtio"),
    ):
        module(name, needs)
    files = {path.stem: path for path in tmp_path.iterdir()}
    order = [path.stem for path in initramfs.in_order(files, ("virtio_blk", "rng"))]
    assert order == ["virtio", "virtio_ring", "virtio-blk", "rng"]
    with pytest.raises(TargetError, match="kernel module virtio_net") as caught:
        initramfs.in_order(files, ("virtio_net",))
    assert caught.value.code == "initramfs-module"


def test_the_archive_is_what_cpio_reads(tmp_path):
    """Read back by an independent reader: GNU cpio where it is, else bsdtar, else the format's own arithmetic."""
    entries = [
        ("a", stat.S_IFDIR | 0o755, b""),
        ("a/b", stat.S_IFREG | 0o644, b"12345"),
        ("c", stat.S_IFREG | 0o755, b""),
    ]
    data = b"".join(initramfs.archive(entries))
    found, at = [], 0
    while at < len(data):
        assert data[at : at + 6] == b"070701" and at % 4 == 0
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        start = (at + 110 + fields[11] + 3) // 4 * 4
        found.append((name, fields[1], data[start : start + fields[6]]))
        at = (start + fields[6] + 3) // 4 * 4
    assert found == [*entries, ("TRAILER!!!", 0, b"")]


def test_system_accounts_are_numbered_downwards_and_existing_ones_are_kept():
    declared = 'u messagebus - "System Bus"\ng kvm -\nu root 0 "Super"\nm pi kvm\n# note\nu messagebus -\n\n'
    users, groups = system.accounts(declared, {"root"})
    assert users == ["messagebus:x:999:999::/run/messagebus:/usr/sbin/nologin"]
    assert groups == ["messagebus:x:999:", "kvm:x:998:"]


def test_the_board_is_listed_with_the_commands_that_make_it_ready(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = board.targets()[0].row()
    assert row["name"] == "board:virt-a72" and not row["ready"]
    assert row["missing"].endswith("edge-derm targets --prepare board:virt-a72")
    monkeypatch.setattr(image, "which", lambda tool: None)
    assert (
        "sudo apt-get install --no-install-recommends qemu-system-arm e2fsprogs"
        in board.targets()[0].row()["missing"]
    )
    with pytest.raises(TargetError, match="qemu-system-arm") as caught:
        image.prepare()
    assert caught.value.code == "board-tools" and list(tmp_path.iterdir()) == []


def test_what_the_board_cannot_do_is_refused_before_it_is_started(tmp_path):
    for options in (
        {"backend": "tflite-runtime"},
        {"threads": 3},
        {"threads": 2, "count_instructions": True},
    ):
        with pytest.raises(TargetError) as caught:
            board.bench(tmp_path, **options)
        assert caught.value.code == "board-options"


@pytest.fixture(scope="module")
def prepared():
    """The board's image, made by the product's own code where it is not in the cache yet."""
    try:
        image.prepare()
    except TargetError as error:
        if error.code in ("board-tools", "debian-tools", "debian-network", "wheels-network"):
            pytest.skip(str(error))
        raise
    return image.folder()


@pytest.fixture(scope="module")
def running(prepared, tmp_path_factory):
    """The board as scripts/board runs it, with a disk that is kept."""
    disk = tmp_path_factory.mktemp("board") / "disk"
    command = [sys.executable, "-m", "edge_derm.measure.machine", str(disk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            said = [started.stdout.readline() for _ in range(2)]
            assert said[0].startswith("export EDGE_DERM_SSH="), said + [started.stderr.read()]
            name = re.search(r"ssh://\S+", said[1])[0].rstrip(";")
            found = ssh.parse(name)
            yield Running(
                ssh.Address(found.host, found.user, found.port, machine.client(), "python3"), disk, started
            )
        finally:
            started.kill()


@dataclass(frozen=True)
class Running:
    address: ssh.Address
    disk: Path
    process: subprocess.Popen


def on(running, command):
    """Standard output of a shell command on the board."""
    return process.run([*running.address.command(), command], what="board", timeout_s=300).decode()


@pytest.mark.board
@pytest.mark.slow
def test_the_board_is_a_whole_linux_with_its_services_running(running):
    said = on(
        running,
        "uname -m; systemctl is-system-running --wait; systemctl --failed --no-legend; sudo -n id -u; id -un",
    )
    assert said.split() == ["aarch64", "running", "0", "pi"]
    wheels = "import ai_edge_litert.interpreter, cv2, numpy; print(numpy.__version__)"
    assert on(running, f"python3 -m venv --help > venv && python3 -c '{wheels}'").strip() == "2.4.6"


@pytest.mark.board
@pytest.mark.slow
def test_a_model_is_looked_at_on_the_board_and_agrees_to_the_last_bit(running, tiny_bundle):
    found, answer = board.look(running.address, [tiny_bundle])
    for kernels in ("default", "reference"):
        assert found[0].parity[kernels] == SAME
    assert 100_000 < found[0].peak_rss_bytes < 100_000_000 and found[0].counts == ()
    assert answer["environment"]["machine"] == "aarch64" and "virt" in answer["environment"]["board"]
    assert 900 << 20 < answer["environment"]["memory_bytes"] < 1 << 30
    assert "edge-derm" not in on(running, "ls -A /tmp")


@pytest.mark.board
@pytest.mark.slow
def test_a_board_that_is_stopped_has_written_its_disk_and_is_gone(running):
    """Ctrl-C on scripts/board; e2fsck and debugfs read the disk."""
    on(running, "echo kept > here")
    running.process.send_signal(signal.SIGINT)
    running.process.communicate(timeout=400)
    assert running.process.returncode == 0 and not alive(str(running.disk))
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    checked = subprocess.run(["e2fsck", "-fn", running.disk], capture_output=True, text=True, env=environment)
    assert checked.returncode == 0 and "skipping journal recovery" not in checked.stderr, (
        checked.stdout + checked.stderr
    )
    kept = subprocess.run(
        ["debugfs", "-R", "cat /home/pi/here", running.disk], capture_output=True, text=True, env=environment
    )
    assert kept.stdout == "kept\n"


@pytest.mark.board
@pytest.mark.slow
def test_a_board_switched_off_while_it_measures_is_a_lost_connection(prepared, tmp_path):
    """The emulator killed: the plug pulled out."""
    with machine.running() as started:

        def pull_the_plug():
            on(started, "until pgrep -f '[s]leep[(]600' > /dev/null; do sleep 0.5; done")
            os.kill(started.pid, signal.SIGKILL)

        killer = threading.Thread(target=pull_the_plug)
        killer.start()
        with pytest.raises(TargetError) as caught:
            visit.visit(started.address, [], ["-c", "import time; time.sleep(600)"], modules=[])
        killer.join()
    assert caught.value.code == "ssh-lost" and "connection was lost" in str(caught.value)
    assert not Path(f"/proc/{started.pid}").exists()


@pytest.mark.board
@pytest.mark.slow
def test_counting_on_the_board_agrees_with_the_counter_of_the_emulated_core(prepared, tiny_bundle):
    """Two counters that share nothing: a clock that advances with instructions, and a plugin of another emulator."""
    command = [*CLI, "bench", str(tiny_bundle), "--target", board.NAME, "--count-instructions", "--json", "-"]
    made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    jsonschema.Draft202012Validator(record.schema()).validate(made)
    assert made["latency_ms"] is None and made["emulator"]["cores"] == 1
    if targets.find_target("qemu:cortex-a72").ready()[0]:
        counted = targets.bench(tiny_bundle, target="qemu:cortex-a72")["instructions"]
        assert made["instructions"] == pytest.approx(counted, rel=0.15)


def test_an_emulator_that_is_killed_while_it_boots_says_so(monkeypatch, tmp_path):
    """A program that is killed in the place of the emulator: the wait ends at once, with the console's last line."""
    parts = tmp_path / "parts"
    parts.mkdir()
    monkeypatch.setattr(image, "folder", lambda: parts)
    monkeypatch.setattr(machine, "_command", lambda *a, **k: ["sh", "-c", "kill -KILL $$"])
    with pytest.raises(
        TargetError, match="board:virt-a72: expected it to finish, but it was killed by SIGKILL"
    ) as caught:
        with machine.running():
            raise AssertionError("it never ran")
    assert caught.value.code == "process-killed"


def test_a_board_that_never_answers_is_given_up_with_its_last_words(monkeypatch, tmp_path):
    def command(port, console, **options):
        Path(console).write_text("Kernel panic - not syncing\n")
        return ["sleep", f"6{os.getpid()}"]

    monkeypatch.setattr(image, "folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "_command", command)
    with pytest.raises(TargetError, match="within 0.5 s.*Kernel panic") as caught:
        with machine.running(boot_s=0.5):
            raise AssertionError("it never ran")
    assert caught.value.code == "machine-boot"
    assert not alive(f"sleep 6{os.getpid()}")

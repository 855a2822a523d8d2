"""A deployment over a real sshd on loopback, with the real wheels of this machine's kind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import board_server
from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.bundle.signing import keygen, sign
from edge_derm.deploy import budget, deploying
from edge_derm.deploy.agent.board import Board
from edge_derm.deploy.agent.service import Plain
from edge_derm.deploy.release import Options, build, own_wheel, requirements
from edge_derm.deploy.unit import unit_text
from edge_derm.errors import BundleError, DataError, TargetError
from processes import alive, children, wait_for

BOARD = {
    "python": [3, 11, 2],
    "machine": "x86_64",
    "bits": 64,
    "libc": ["glibc", "2.36"],
    "free_bytes": 10**12,
    "available_bytes": 10**10,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with board_server.serving(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def root(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("EDGE_DERM_SSH", server.client())
    yield str(tmp_path / "board")
    if (tmp_path / "board").exists():
        board = Board(str(tmp_path / "board"), Plain())
        board.service.stop(board)
        board.close()
    assert not alive(str(tmp_path / "board"))


@pytest.fixture
def options() -> Options:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return Options(source="synthetic", port=free.getsockname()[1])


@pytest.mark.slow
def test_first_second_broken_and_back(
    server: Any, root: str, options: Options, tiny_bundle: Path, tmp_path: Path
) -> None:
    slow = Options(source="synthetic", port=options.port, latency_ms=1e-6)
    with pytest.raises(TargetError, match="latency") as caught:
        deploying.deploy(tiny_bundle, server.name, slow, root=root)
    assert caught.value.code == "self-test"

    first = deploying.deploy(tiny_bundle, server.name, options, root=root)
    assert first["healthy"] and first["previous"] is None

    changed = tmp_path / "changed.bundle"
    shutil.copytree(tiny_bundle, changed)
    update_bundle(open_bundle(changed), abstain_threshold=0.3)
    second = deploying.deploy(changed, server.name, options, root=root)
    assert second["healthy"] and second["previous"] == first["release"]
    assert second["bytes_to_send"] < 0.01 * second["bytes_in_release"]  # only what changed travels

    broken = Options(source="/nowhere/at/all", port=options.port)
    with pytest.raises(TargetError, match="nowhere") as caught:
        deploying.deploy(tiny_bundle, server.name, broken, root=root, wait_s=30.0)
    assert caught.value.code == "not-healthy"
    status = deploying.status(server.name, root=root)
    assert (status["release"], status["healthy"]) == (second["release"], True)

    assert first["expected"]["source"] is None and second["expected"]["source"] == "counted"
    with pytest.raises(
        TargetError, match="last self-test"
    ) as caught:  # nothing is sent: the board has measured before
        deploying.deploy(changed, server.name, slow, root=root)
    assert caught.value.code == "budget-latency"

    back = deploying.rollback(server.name, root=root)
    assert (back["release"], back["previous"], back["healthy"]) == (first["release"], second["release"], True)


@pytest.mark.slow
def test_a_board_told_whom_to_trust_runs_signed_bundles_only(
    server: Any, root: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    keygen(tmp_path / "key")
    options = Options(service=None, trust=True)
    with pytest.raises(BundleError) as unsigned:
        deploying.deploy(tiny_bundle, server.name, options, root=root, trust=tmp_path / "key.pub")
    assert unsigned.value.code == "signature-missing"
    sign(tiny_bundle, tmp_path / "key")
    assert deploying.deploy(tiny_bundle, server.name, options, root=root, trust=tmp_path / "key.pub")[
        "healthy"
    ]
    (tiny_bundle / "signature.json").unlink()
    with pytest.raises(TargetError, match="not signed"):  # whoever deploys: the board itself refuses now
        deploying.deploy(tiny_bundle, server.name, Options(service=None), root=root)
    secret = (tmp_path / "key").read_text().splitlines()[1]
    assert not [
        path for path in Path(root).rglob("*") if path.is_file() and secret in path.read_text("latin-1")
    ]


@pytest.mark.slow
def test_the_connection_cut_at_any_moment_leaves_a_whole_release_and_the_next_deployment_succeeds(
    server: Any, root: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    options = Options(service=None)
    first = deploying.deploy(tiny_bundle, server.name, options, root=root)["release"]
    changed = tmp_path / "changed.bundle"
    shutil.copytree(tiny_bundle, changed)
    begun_s = time.monotonic()
    deploying.deploy(changed, server.name, Options(service=None, lsb=3), root=root)
    spent_s = time.monotonic() - begun_s
    cuts = 0
    for number in range(10):
        update_bundle(open_bundle(changed), abstain_threshold=0.1 + number / 20)
        timer = threading.Timer(spent_s * (number + 0.5) / 10, cut_connections)
        timer.start()
        try:
            deploying.deploy(changed, server.name, options, root=root)
        except TargetError as error:
            cuts += error.code != "deploy-busy"
        timer.cancel()
        current = os.readlink(Path(root) / "current").rpartition("/")[2]
        record = json.loads((Path(root) / "current" / "release.json").read_text())
        assert record["id"] == current
        for name, digest in record["bundle"].items():
            assert (
                hashlib.sha256((Path(root) / "current" / "bundle" / name).read_bytes()).hexdigest() == digest
            )
    assert cuts >= 3
    last = wait_for(lambda: not_busy(lambda: deploying.deploy(tiny_bundle, server.name, options, root=root)))
    assert last["healthy"] and last["release"] == first
    assert not [name for name in os.listdir(Path(root) / "releases") if name.startswith(".")]


def cut_connections() -> None:
    """Kill every ssh client that this process started."""
    for pid, name in children(os.getpid()).items():
        if name == "ssh":
            os.kill(pid, signal.SIGKILL)


def not_busy(deployment: Callable[[], dict]) -> dict | None:
    """None while the board's half of a cut connection still finishes its step."""
    try:
        return deployment()
    except TargetError as error:
        if error.code != "deploy-busy":
            raise
        return None


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_counts(
    server: Any, root: str, options: Options, tiny_bundle: Path
) -> None:
    record = deploying.deploy(tiny_bundle, server.name, options, root=root, dry_run=True)
    assert record["bytes_to_send"] == record["bytes_in_release"] > 10**6 and not os.path.exists(root)


@pytest.mark.slow
def test_the_command_line_gives_the_keys_scripts_rely_on(server: Any, root: str, tiny_bundle: Path) -> None:
    def run(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", "from edge_derm.cli import main; main()", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = run("deploy", tiny_bundle, "--to", server.name, "--service", "none", "--root", root, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert {"release", "previous", "healthy"} <= json.loads(done.stdout).keys()
    done = run("rollback", "--to", server.name, "--root", root)
    assert done.returncode == 1 and "no earlier release" in done.stderr and len(done.stderr.splitlines()) == 1
    done = run("status", "--to", server.name, "--root", root, "--json", "-")
    assert json.loads(done.stdout)["healthy"] is True
    boards = ["--to", "ssh://127.0.0.1:1", "--to", server.name]
    done = run("deploy", tiny_bundle, *boards, "--service", "none", "--root", root, "--json", "-")
    assert done.returncode == 1 and "left alone" in json.loads(done.stdout)["boards"][1]["error"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"bits": 32, "machine": "armv7l"}, "board-machine"),
        ({"machine": "riscv64"}, "board-machine"),
        ({"python": [3, 9, 2]}, "board-python"),
        ({"python": [3, 14, 0]}, "board-python"),
        ({"libc": ["glibc", "2.24"]}, "board-libc"),
        ({"libc": ["", ""]}, "board-libc"),
    ],
)
def test_a_board_that_cannot_run_a_release_is_refused_with_what_to_do(change: dict, code: str) -> None:
    with pytest.raises(TargetError) as caught:
        deploying.check_board({**BOARD, **change}, "ssh://pi")
    assert caught.value.code == code and "expected" in str(caught.value)


def test_a_board_without_room_is_refused_before_anything_is_sent() -> None:
    for change, code in (
        ({"free_bytes": 10**6}, "board-space"),
        ({"available_bytes": 10**6}, "board-memory"),
    ):
        with pytest.raises(TargetError) as caught:
            budget.check_room({**BOARD, **change}, 10**6, "ssh://pi")
        assert caught.value.code == code


def test_the_package_travels_as_the_same_wheel_every_time_and_without_tensorflow_parts() -> None:
    assert own_wheel() == own_wheel() and b"edge_derm/modeling" not in own_wheel()


def test_a_release_needs_only_the_board_s_packages() -> None:
    names = {text.split(">")[0].split("<")[0].split("=")[0] for text in requirements(Options(trust=True))}
    assert {"ai-edge-litert", "numpy", "opencv-python-headless", "click", "aiohttp", "cryptography"} <= names
    assert not names & {"tensorflow", "keras", "pytest", "matplotlib"}
    assert "aiohttp" not in str(requirements(Options(service=None)))


def test_the_unit_is_sandboxed_and_holds_no_source() -> None:
    text = unit_text("r-1", 8080, trust=True, memory_mb=None)
    assert "--source" not in text and "EnvironmentFile=@ROOT@/source.env" in text
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert all("=" in line for line in lines) and "WantedBy=multi-user.target" in lines
    assert {"DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "WatchdogSec=30"} <= set(lines)


@pytest.mark.slow
def test_the_same_bundle_for_the_same_board_is_the_same_release(tiny_bundle: Path) -> None:
    board = {**BOARD, "python": list(sys.version_info[:3])}
    made = [build(open_bundle(tiny_bundle), board, Options(service=None)) for _ in range(2)]
    assert made[0].record["id"] == made[1].record["id"] and made[0].sizes == made[1].sizes
    other = build(open_bundle(tiny_bundle), board, Options(service=None, lsb=3))
    assert other.record["id"] != made[0].record["id"]


def expected(board: dict, *, macs: int = 2_000_000) -> dict:
    release = {"macs": macs, "bundle": {"model.tflite": "0" * 64}}
    return budget.expect(release, {**BOARD, **board}, None)


def test_a_frame_time_out_of_budget_is_refused_before_anything_is_sent() -> None:
    known = {"measured": {"macs": 1_000_000, "latency_ms": 3.0, "memory_mb": 50.0, "lsb": 0}}
    found = expected(known)
    assert found == {"latency_ms": 6.0, "memory_mb": 50.0, "source": "counted"}  # twice the MACs, twice 3 ms
    budget.check(found, Options(latency_ms=3.1, memory_mb=60.0), "ssh://pi")  # within what counting can tell
    for options, code in (
        (Options(latency_ms=2.9), "budget-latency"),
        (Options(memory_mb=24.0), "budget-memory"),
    ):
        with pytest.raises(TargetError) as caught:
            budget.check(found, options, "ssh://pi")
        assert caught.value.code == code
    first = expected({})
    assert first["source"] is None
    budget.check(first, Options(latency_ms=1e-9), "ssh://pi")  # the self-test there will tell


def test_a_measured_time_is_taken_only_from_a_record_of_this_model(tmp_path: Path) -> None:
    release = {"macs": 1, "bundle": {"model.tflite": "a" * 64}}
    record = tmp_path / "bench.json"
    whole = {"model_sha256": "a" * 64, "latency_ms": {"p50": 4.0}, "memory": {"peak_rss_bytes": 2**25}}
    record.write_text(json.dumps(whole))
    found = budget.expect(release, BOARD, record)
    assert found == {"latency_ms": 4.0, "memory_mb": 32.0, "source": "measured"}
    with pytest.raises(TargetError, match="measured by bench"):
        budget.check(found, Options(latency_ms=3.9), "ssh://pi")
    for change in ({"model_sha256": "b" * 64}, {"latency_ms": None}, {"memory": {}}):
        record.write_text(json.dumps({**whole, **change}))
        with pytest.raises(DataError) as caught:
            budget.expect(release, BOARD, record)
        assert caught.value.code == "budget-record"

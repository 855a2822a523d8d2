"""The board's half of a deployment: whatever is killed whenever, one complete release is current and the next visit succeeds."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Callable, Iterator

import pytest

import board_releases
from board_releases import bring, release
from edge_derm.deploy import agent
from edge_derm.deploy.agent.board import SETTLE_TRIES, Board, settle
from edge_derm.deploy.agent.files import write_json
from edge_derm.deploy.agent.refusal import Refusal
from edge_derm.deploy.agent.service import Plain

HERE = Path(__file__).parent


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "board"


Visit = Callable[[], Board]


@pytest.fixture
def visit(root: Path) -> Iterator[Visit]:
    """Opens the board as the agent does; the visit before has ended then."""
    opened: list[Board] = []

    def open_board() -> Board:
        for board in opened:
            board.close()
        opened.append(Board(str(root), Plain()))
        opened[-1].tidy()
        return opened[-1]

    yield open_board
    board = open_board()
    board.service.stop(board)
    board.close()


def whole(root: Path) -> str | None:
    """The current release's name after every file of its bundle was compared with its digest; None without one."""
    if not (root / "current").is_symlink():
        return None
    record = json.loads((root / "current" / "release.json").read_text())
    for name, digest in record["bundle"].items():
        assert hashlib.sha256((root / "current" / "bundle" / name).read_bytes()).hexdigest() == digest
    assert (root / "current" / "venv" / "bin" / "python").exists()
    return record["id"]


@pytest.mark.slow
def test_a_second_release_takes_over_and_rollback_brings_the_first_one_back(
    root: Path, port: int, visit: Visit
) -> None:
    board = visit()
    assert bring(board, release("r-1", port, made_s=1)) and whole(root) == "r-1"
    assert bring(board, release("r-2", port, made_s=2)) and whole(root) == "r-2"
    status = board.status()
    assert (status["release"], status["previous"], status["healthy"]) == ("r-2", "r-1", True)
    assert board.rollback(20.0)
    status = board.status()
    assert (status["release"], status["previous"], status["healthy"]) == ("r-1", "r-2", True)


@pytest.mark.slow
def test_a_release_whose_service_fails_is_rolled_back_with_its_own_words(
    root: Path, port: int, visit: Visit
) -> None:
    board = visit()
    assert bring(board, release("r-1", port))
    assert not bring(board, release("r-2", port, extra="broken"), wait_s=10.0)
    status = board.status()
    assert (status["release"], status["healthy"]) == ("r-1", True) and whole(root) == "r-1"
    assert status["last_failure"]["why"] == "edge-derm: broken on purpose"


@pytest.mark.slow
def test_a_first_release_that_fails_leaves_no_release(root: Path, port: int, visit: Visit) -> None:
    board = visit()
    assert not bring(board, release("r-1", port, extra="broken"), wait_s=10.0)
    assert board.status()["release"] is None and board.service.ended(board)


def test_a_release_that_fails_its_self_test_is_never_switched_to(root: Path, port: int, visit: Visit) -> None:
    board = visit()
    assert bring(board, release("r-1", port, service=False))
    with pytest.raises(Refusal, match="golden predictions differ"):
        bring(board, release("r-2", port, service=False, extra="unfit"))
    assert whole(root) == "r-1" and board.status()["releases"] == ["r-1"]


@pytest.mark.slow
def test_killed_at_any_change_of_the_file_system_the_board_stays_whole(
    root: Path, port: int, visit: Visit
) -> None:
    """Every kill point of a second deployment, one after the other; the next visit cleans up and succeeds."""
    board = visit()
    assert bring(board, release("r-0", port))
    board.close()
    kills, number = 0, 0
    while True:
        number += 1
        name = f"r-{number}"
        # The n-th change kills; a deployment that outlives all its changes ends the test.
        done = deploy_in_child(root, name, port, kill_at=number)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        assert whole(root) is not None
        if number % 5 == 0:  # without cleaning by hand, the next visit makes it right
            board = visit()
            assert board.status()["healthy"], number
            assert not [entry for entry in os.listdir(root / "releases") if entry.startswith(".")]
            board.close()
    assert kills >= 50
    assert whole(root) == name


def deploy_in_child(root: Path, name: str, port: int, *, kill_at: int) -> subprocess.CompletedProcess:
    command = [sys.executable, str(HERE / "board_releases.py"), str(root), name, str(port), str(kill_at)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_an_interrupted_upload_goes_on_where_it_stopped(root: Path, visit: Visit) -> None:
    board, data = visit(), os.urandom(3000)
    digest = hashlib.sha256(data).hexdigest()
    assert board.store.missing({digest: 3000}) == {digest: 0}
    board.store.put(digest, 0, 3000, data[:1000])
    assert board.store.missing({digest: 3000}) == {digest: 1000}
    board.store.put(digest, 1000, 3000, data[1000:])
    assert board.store.missing({digest: 3000}) == {} and (root / "store" / digest).read_bytes() == data


def test_altered_bytes_are_refused_and_not_kept(root: Path, visit: Visit) -> None:
    board, digest = visit(), hashlib.sha256(b"sent").hexdigest()
    with pytest.raises(Refusal) as caught:
        board.store.put(digest, 0, 4, b"sunk")
    assert caught.value.code == "upload-digest" and os.listdir(root / "store") == []


def test_a_wheel_that_climbs_out_of_its_folder_is_refused(root: Path, visit: Visit) -> None:
    board = visit()
    with zipfile.ZipFile(root / "store" / "evil", "w") as archive:
        archive.writestr("../../../outside.py", "")
    with pytest.raises(Refusal) as caught:
        board.store.unpacked("evil")
    assert caught.value.code == "wheel-path" and not (root.parent / "outside.py").exists()


def test_two_deployments_at_once_are_one_too_many(root: Path, visit: Visit) -> None:
    board = visit()
    with pytest.raises(Refusal, match="another deployment"):
        Board(board.root, Plain())


def test_old_releases_go_and_what_runs_stays(root: Path, port: int, visit: Visit) -> None:
    board = visit()
    for number in range(6):
        assert bring(board, release(f"r-{number}", port, service=False, made_s=number))
    assert board.status()["releases"] == ["r-3", "r-4", "r-5"]
    kept = {hashlib.sha256(f"r-{number}".encode()).hexdigest() for number in (3, 4, 5)}
    wheel = hashlib.sha256(board_releases.wheel()).hexdigest()
    assert set(os.listdir(root / "store")) == kept | {wheel} and os.listdir(root / "unpacked") == [wheel]


def test_a_new_release_that_keeps_failing_at_boot_is_taken_back(root: Path, port: int, visit: Visit) -> None:
    board = visit()
    for number in (1, 2):
        assert bring(board, release(f"r-{number}", port, service=False))
    write_json(str(root / "pending.json"), {"release": "r-2", "previous": "r-1", "starts": 0})
    for _ in range(SETTLE_TRIES):
        settle(str(root))
        assert board.named("current") == "r-2"
    settle(str(root))
    assert board.named("current") == "r-1" and not (root / "pending.json").exists()
    settle(str(root))  # nothing pending: nothing happens
    assert board.named("current") == "r-1"


def test_what_the_board_gets_is_one_file_for_a_bare_python_in_which_no_name_stands_twice() -> None:
    read = ast.parse(
        agent.source(), feature_version=(3, 6)
    )  # an older python3 reads it, and says that it is too old
    imported = {name.name for node in read.body if isinstance(node, ast.Import) for name in node.names}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert not [node for node in ast.walk(read) if isinstance(node, ast.ImportFrom)]
    named = [node.name for node in read.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    named += [target.id for node in read.body if isinstance(node, ast.Assign) for target in node.targets]
    assert len(named) == len(set(named)) > 30 and not imported & set(named)


def test_a_request_before_the_board_is_open_is_named(root: Path) -> None:
    program = [sys.executable, "-c", agent.source(), base64.b64encode(str(root).encode()).decode()]
    asked = json.dumps({"do": "status"}).encode()
    done = subprocess.run(
        program, input=struct.pack(">I", len(asked)) + asked, capture_output=True, timeout=60
    )
    _, answer = (json.loads(line) for line in done.stdout.decode().split("edge-derm: ")[1:])
    assert answer == {"error": "board-failed", "words": "expected the request 'open' first, got 'status'"}

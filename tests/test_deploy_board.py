"""Deployment to a whole emulated arm64 Debian machine with its own systemd and sshd, and no network but our connection to it.

About six minutes on two quiet cores. The releases watch a folder of pictures, so this is also the camera loop on the board.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator

import cv2
import pytest

from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.camera.quality import assess
from edge_derm.data import open_dataset
from edge_derm.deploy import deploying
from edge_derm.deploy.release import Options
from edge_derm.errors import TargetError
from edge_derm.measure import image, machine
from edge_derm.measure.ssh import Address
from processes import alive, wait_for

PICTURES = "/srv/pictures"
OPTIONS = Options(source=PICTURES)
WAIT_S = 900.0  # emulated, on a machine that others may use
HEALTH = "http://127.0.0.1:8080/health"
EVENT = "http://127.0.0.1:8080/events"


@dataclass(frozen=True)
class Board:
    address: Address
    pid: int

    @property
    def name(self) -> str:
        return f"ssh://{self.address.user}@{self.address.host}:{self.address.port}"

    def ask(self, command: str, data: bytes = b"") -> str:
        done = subprocess.run(
            [*self.address.command(), command], input=data, capture_output=True, timeout=300
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.decode().strip()

    def python(self, code: str) -> str:
        return self.ask(f"python3 -c {shlex.quote(code)}")

    def health(self) -> dict[str, Any]:
        return json.loads(
            self.python(f"import urllib.request as u; print(u.urlopen('{HEALTH}').read().decode())")
        )

    def shown(self) -> dict[str, Any] | None:
        """What the page of the service shows now, if it is an answer."""
        code = f"import urllib.request as u; r = u.urlopen('{EVENT}'); print([r.readline() for _ in range(3)][2].decode()[6:])"
        said = self.python(code)
        state = json.loads(said) if said else {}
        return state if state.get("status") == "answered" else None

    def deploy(self, bundle: Path, options: Options = OPTIONS, **more: Any) -> dict[str, Any]:
        return deploying.deploy(bundle, self.name, options, **{"wait_s": WAIT_S, **more})

    def status(self) -> dict[str, Any]:
        return deploying.status(self.name)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The board's disk, which outlives its power."""
    missing = image.missing()
    if missing and "--prepare" not in missing:
        pytest.skip(f"the emulated board cannot be built here: {missing}")
    image.prepare()
    copy = tmp_path_factory.mktemp("deployed") / "disk"
    subprocess.run(["cp", "--sparse=always", image.folder() / "disk", copy], check=True)
    yield copy
    copy.unlink()
    assert not alive(str(copy))


@pytest.fixture
def power(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Starts the board from its disk."""
    monkeypatch.setenv("EDGE_DERM_SSH", shlex.join(machine.client()))
    return lambda: machine.running(disk=disk)


def at(line: str, act: Callable[[], Any]) -> Callable[[str], None]:
    """``say`` that acts when the deployment says ``line``."""
    return lambda said: act() if line in said else None


def changed(bundle: Path, folder: Path, threshold: float) -> Path:
    """The bundle with another threshold: nothing else changes."""
    copy = folder / f"changed-{threshold}.bundle"
    shutil.copytree(bundle, copy)
    update_bundle(open_bundle(copy), abstain_threshold=threshold)
    return copy


@pytest.mark.slow
@pytest.mark.board
def test_systemd_runs_releases_and_the_board_survives_what_fails_and_what_is_killed(
    tiny_bundle: Path, tmp_path: Path, power: Callable[[], Any]
) -> None:
    with power() as running:
        board = Board(running.address, running.pid)
        offline(board)
        show_it_pictures(board)
        first = runs_the_first_release(board, tiny_bundle)
        second = survives_a_killed_installation(board, changed(tiny_bundle, tmp_path, 0.3), first)
        takes_back_a_broken_release(board, tiny_bundle, second)
        back = deploying.rollback(board.name, wait_s=WAIT_S)
        assert (back["release"], back["healthy"]) == (first["release"], True)
        loses_power_in_the_switch(board, changed(tiny_bundle, tmp_path, 0.4))
    with power() as running:
        board = Board(running.address, running.pid)
        runs_after_the_power_cut(board, changed(tiny_bundle, tmp_path, 0.5))


def offline(board: Board) -> None:
    """The board reaches nothing: neither a name server, nor its gateway, nor an address of the world."""
    for place in ("10.0.2.3:53", "10.0.2.2:22", "151.101.0.223:443"):
        host, port = place.split(":")
        code = f"import socket; print(socket.socket().connect_ex(('{host}', {port})))"
        assert board.python(f"import socket; socket.setdefaulttimeout(5); {code}") != "0", place


def show_it_pictures(board: Board) -> None:
    """Lesions that the camera's quality gate lets through."""
    board.ask(f"sudo mkdir -p {PICTURES}")
    drawn = open_dataset("synthetic:8")
    for index in range(8):
        pixels = drawn.read(index)
        if assess(pixels, order="rgb").problem is None:
            data = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
            board.ask(f"sudo tee {PICTURES}/{index}.png >/dev/null", data)


def runs_the_first_release(board: Board, bundle: Path) -> dict[str, Any]:
    first = board.deploy(bundle)
    assert first["healthy"] and first["service"] == "systemd" and first["previous"] is None
    health = board.health()
    assert health["healthy"] and health["frames"] > 0 and health["restarts"] == 0
    shown = wait_for(board.shown, 120)
    assert shown and shown["label"] in open_bundle(bundle).manifest.labels
    facts = board.ask("systemctl show edge-derm -p DynamicUser,NRestarts,WatchdogUSec,ActiveState")
    assert {"DynamicUser=yes", "NRestarts=0", "WatchdogUSec=30s", "ActiveState=active"} <= set(facts.split())
    listens = [line.split()[3] for line in board.ask("sudo ss -Hltn").splitlines()]
    assert set(listens) == {"127.0.0.1:8080", "0.0.0.0:22", "[::]:22"} or set(listens) == {
        "127.0.0.1:8080",
        "0.0.0.0:22",
        "*:22",
    }
    assert PICTURES not in board.ask("ps axww")  # a source may hold a password
    return first


def survives_a_killed_installation(board: Board, bundle: Path, first: dict[str, Any]) -> dict[str, Any]:
    """The board's half is killed while it installs; the release that ran goes on, and the next deployment succeeds."""

    half = "/opt/edge-derm/releases/.new-*"
    command = f"until ls -d {half} >/dev/null 2>&1; do sleep 0.1; done; sudo pkill -KILL -f [z]lib.decompress"

    def kill() -> None:
        threading.Timer(0.0, board.ask, [command]).start()

    with pytest.raises(TargetError):
        board.deploy(bundle, say=at("installing", kill))
    status = board.status()
    assert (status["release"], status["healthy"]) == (first["release"], True)
    second = board.deploy(bundle)
    assert second["healthy"] and second["previous"] == first["release"]
    assert second["bytes_to_send"] < 0.01 * second["bytes_in_release"]  # only what changed travels
    return second


def takes_back_a_broken_release(board: Board, bundle: Path, second: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match="nowhere") as broken:
        board.deploy(bundle, replace(OPTIONS, source="/nowhere/at/all"))
    assert broken.value.code == "not-healthy"
    status = board.status()
    assert (status["release"], status["healthy"]) == (second["release"], True)


def loses_power_in_the_switch(board: Board, bundle: Path) -> None:
    with pytest.raises(TargetError):
        board.deploy(
            bundle,
            say=at("switching", lambda: threading.Timer(2.0, os.kill, [board.pid, signal.SIGKILL]).start()),
        )


def runs_after_the_power_cut(board: Board, bundle: Path) -> None:
    """One complete release runs, by systemd's own start; the next deployment needs no cleaning by hand."""
    current = board.ask("basename $(readlink /opt/edge-derm/current)")
    digest = json.loads(board.ask(f"sudo cat /opt/edge-derm/releases/{current}/release.json"))["bundle"][
        "model.tflite"
    ]
    assert board.ask("sha256sum < /opt/edge-derm/current/bundle/model.tflite").split()[0] == digest
    third = board.deploy(bundle)
    assert third["healthy"] and board.status()["healthy"]

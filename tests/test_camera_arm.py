"""The camera loop on an emulated arm64 core: a folder of pictures in, answers and a health endpoint out."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request

import cv2
import pytest

from edge_derm.camera import scenes
from edge_derm.errors import TargetError
from edge_derm.measure import arm64, wheels

START = "import sys; sys.path.insert(0, sys.argv[1]); from edge_derm.cli import main; main(sys.argv[2:])"
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def server_wheels(tmp_path_factory):
    """What the page needs beside the tree, for arm64."""
    folder = tmp_path_factory.mktemp("aiohttp")
    try:
        wheels.install(("aiohttp>=3.10,<4",), folder)
    except TargetError as error:
        if error.code == "wheels-network":
            pytest.skip(str(error))
        raise
    return folder


@pytest.mark.arm
@pytest.mark.slow
def test_the_loop_runs_and_serves_its_health(tree, server_wheels, tiny_bundle, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, scene in enumerate(("sharp", "blurred")):
        cv2.imwrite(str(pictures / f"{number}.png"), scenes.frame(20, scene=scene))
    port = free_port()
    given = ["camera", "--bundle", tiny_bundle, "--source", pictures, "--repeat", "--inline", "--view", "web"]
    given += ["--port", port, "--frames", "400", "--json", tmp_path / "record.json"]
    said: list[Exception] = []

    def emulate():
        try:
            words = ["-c", START, str(server_wheels), *map(str, given)]
            arm64.run(tree, "cortex-a72", words, timeout_s=TIMEOUT_S)
        except Exception as error:
            said.append(error)

    board = threading.Thread(target=emulate)
    board.start()
    health = healthy(port, board)
    board.join(TIMEOUT_S)
    assert not said, said
    assert health["healthy"] and health["frames"] > 0 and health["restarts"] == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["frames"] == 400 and record["dropped"] == 0 and record["unanswered"] == 0
    assert record["rejected_for"] == {"blurred": 200}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def healthy(port: int, board: threading.Thread) -> dict:
    """The first answer of the health endpoint that has frames in it, while the board is up."""
    until = time.monotonic() + TIMEOUT_S
    found: dict = {}
    while time.monotonic() < until and board.is_alive() and not found.get("frames"):
        time.sleep(0.2)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                found = json.load(answer)
        except (urllib.error.URLError, OSError):
            continue
    return found

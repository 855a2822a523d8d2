"""``edge-derm camera`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest

from edge_derm.camera import scenes
from edge_derm.camera.sources import Broken, Lost, opener


def camera(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from edge_derm.cli import main; main()", "camera", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_record_has_the_keys_scripts_rely_on(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, scene in enumerate(("sharp", "sharp", "blurred", "dark")):
        cv2.imwrite(str(folder / f"{number}.png"), scenes.frame(20, scene=scene))
    (folder / "zz.jpg").write_bytes(b"no picture")
    done = camera(
        "--bundle",
        tiny_bundle,
        "--source",
        folder,
        "--view",
        "none",
        "--log",
        tmp_path / "log",
        "--json",
        "-",
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["frames"], record["quality_rejected"], record["broken"], record["dropped"]) == (4, 2, 1, 0)
    assert record["rejected_for"] == {"blurred": 1, "dark": 1}
    assert set(record["latency_ms"]) == {"capture", "preprocess", "infer", "total"}
    assert record["fps"] > 0 and record["abstained"] == 0 and record["not_logged"] == 0
    lines = (tmp_path / "log" / "predictions-000001.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["answered", "answered", "rejected", "rejected"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "nowhere.mp4"], "found no such file or folder"),
        (["--source", "97"], "/dev/video97"),
        (["--save-frames"], "--consent"),
        (["--view", "window"], "--view web"),
        (["--backend", "nothing"], "nothing"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(tiny_bundle: Path, arguments: list[str], words: str) -> None:
    if "--source" not in arguments:
        arguments = [*arguments, "--source", "synthetic"]
    done = camera("--bundle", tiny_bundle, "--view", "none", "--frames", 3, *arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert words in done.stderr and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_network_stream_is_read_and_its_end_is_noticed(tiny_bundle: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from edge_derm.cli import main; main()",
        "camera",
        "--bundle",
        str(tiny_bundle),
    ]
    command += ["--source", "synthetic:sharp", "--view", "web", "--port", "0"]
    serving = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with serving.stderr:  # type: ignore[union-attr]
            address = serving.stderr.readline().split()[1]  # type: ignore[union-attr]
        source = opener(address + "video.mjpg")()
        frame = source.read()
        assert frame is not None and frame.shape == (480, 640, 3)
        threading.Timer(0.5, serving.terminate).start()
        until = time.monotonic() + 60
        with pytest.raises(Lost):
            while time.monotonic() < until:
                try:
                    source.read()
                except Broken:
                    pass
        source.close()
        assert serving.wait(20) == 0
    finally:
        serving.kill()
        serving.wait(20)

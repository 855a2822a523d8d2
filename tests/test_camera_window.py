"""The window view, on a desktop without a monitor, with the OpenCV that has windows in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np
import pytest

import screens
from edge_derm.camera import scenes
from environments import make_environment
from processes import wait_for

ROOT = Path(__file__).parent.parent
DESKTOP = [
    "opencv-python>=4.10,<6",
    "ai-edge-litert>=2.1,<3",
    "click>=8.1,<9",
    "flatbuffers>=24.3,<26",
    "numpy>=1.26,<3",
]
CALM = (slice(300, 500), slice(400, 700))  # of the window: neither text nor bars


@pytest.fixture(scope="module")
def python(pytestconfig: pytest.Config) -> Path:
    return make_environment(Path(str(pytestconfig.cache.mkdir("window"))) / "desktop", *DESKTOP)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[screens.Screen]:
    with screens.shown(tmp_path) as running:
        yield running


@contextlib.contextmanager
def camera(python: Path, screen: screens.Screen, folder: Path, *words: object) -> Iterator[subprocess.Popen]:
    """The command with ``--view window`` on the screen, working in ``folder``."""
    command = [
        python,
        "-c",
        "from edge_derm.cli import main; main()",
        "camera",
        "--view",
        "window",
        "--inline",
        *words,
    ]
    environment = {**os.environ, "DISPLAY": screen.name, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [*map(str, command), "--json", "-"], env=environment, cwd=folder, **pipes
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.slow
def test_the_window_shows_the_frame_keeps_a_snapshot_and_closes_by_its_key(
    python: Path, screen: screens.Screen, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    picture = scenes.frame(20)
    cv2.imwrite(str(tmp_path / "pictures" / "0.png"), picture)
    wanted = cv2.resize(picture, (960, 720))[CALM]

    def apart() -> float:
        return cv2.matchTemplate(screen.pixels().copy(), wanted, cv2.TM_SQDIFF_NORMED).min()

    assert apart() > 0.5
    words = ("--bundle", tiny_bundle, "--source", tmp_path / "pictures", "--repeat")
    with camera(python, screen, tmp_path, *words) as started:
        assert wait_for(lambda: started.poll() is not None or apart() < 0.005), apart()
        screen.press("s")
        kept = wait_for(lambda: list(tmp_path.glob("snapshot-*.png")))
        screen.press("q")
        said, trouble = started.communicate(timeout=60)
        assert started.returncode == 0, trouble.decode()
    assert json.loads(said)["view"] == "window" and json.loads(said)["sink_errors"] == 0
    snapshot = cv2.imread(str(kept[0]))
    assert snapshot.shape == picture.shape and np.array_equal(
        snapshot[200:400, 300:600], picture[200:400, 300:600]
    )

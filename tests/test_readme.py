"""What the README shows is run as it stands, on drawn pictures and random weights."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from edge_derm.data import open_dataset
from test_architecture import write_h5

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(heading, language):
    """The first code block of a section."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.S)[1]


@pytest.fixture
def desk(tmp_path):
    """A folder like a reader's: images/ by class, lesion.jpg, a weight file, and edge-derm on the path."""
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    dataset = open_dataset("synthetic:80")
    for index, sample in enumerate(dataset.samples):
        folder = tmp_path / "images" / dataset.labels[sample.label]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), dataset.read(index)[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "lesion.jpg"), dataset.read(0)[:, :, ::-1])
    network = keras.applications.MobileNet((32, 32, 3), 0.25, include_top=False, weights=None)
    write_h5(tmp_path / "mobilenet_2_5_224_tf_no_top.h5", network)
    return tmp_path


@pytest.mark.slow
def test_the_shell_and_python_examples_run(desk):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = block("Your images", "sh")
    assert len(commands.strip().splitlines()) == 7
    done = subprocess.run(
        ["sh", "-e", "-c", commands], cwd=desk, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (desk / "report.html").stat().st_size > 10_000
    (desk / "demo").mkdir()
    (desk / "d1.bundle").rename(desk / "demo" / "model.bundle")
    done = subprocess.run(
        [sys.executable, "-c", block("Five lines of Python", "python")],
        cwd=desk,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    label, probability = done.stdout.split()
    assert label in ("keratosis", "melanoma", "nevus", "vascular") and 0.25 <= float(probability) <= 1


def test_the_two_commands_exist_and_links_lead_somewhere():
    for script in re.findall(r"^(scripts/\w+)", block("Two commands", "sh"), re.M):
        assert os.access(ROOT / script, os.X_OK)
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    assert len(README.splitlines()) <= 150 and "Not a medical device" in README

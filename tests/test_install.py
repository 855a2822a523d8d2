"""What a board gets: the base install without TensorFlow, and the old-board engine in its own environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from environments import make_environment

ROOT = Path(__file__).parent.parent
LEGACY = [
    "tflite-runtime==2.14.0",
    "numpy<2",
    "opencv-python-headless==4.11.0.86",
    "click>=8.1,<9",
    "flatbuffers>=24.3,<26",
]


def run(python, *arguments, path=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if path:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [str(python), *map(str, arguments)], capture_output=True, text=True, env=environment, cwd="/"
    )


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "lesion.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    return path


@pytest.mark.slow
def test_the_base_install_runs_a_bundle_without_tensorflow(tmp_path, tiny_bundle, picture):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".venv*", ".git", ".pytest_cache", ".hypothesis", "build", "demo"),
    )
    python = make_environment(tmp_path / "board", str(source))
    installed = run(python, "-m", "pip", "list", "--format", "json").stdout
    names = {package["name"].lower() for package in json.loads(installed)}
    assert not names & {"tensorflow", "keras", "matplotlib", "scipy"}, names
    command = python.parent / "edge-derm"
    assert run(command, "--version").stdout.startswith("edge-derm")
    label = json.loads(run(command, "predict", tiny_bundle, picture, "--json", "-").stdout)[0]["label"]
    ours = json.loads(
        run(
            sys.executable,
            "-c",
            "from edge_derm.cli import main; main()",
            "predict",
            tiny_bundle,
            picture,
            "--json",
            "-",
            path=ROOT,
        ).stdout
    )[0]["label"]
    assert label == ours
    assert run(command, "bench", tiny_bundle, "--runs", "50").returncode == 0
    assert run(command, "inspect", tiny_bundle).returncode == 0
    made = run(command, "report", tiny_bundle, "--out", tmp_path / "r.html")
    assert made.returncode == 0 and (tmp_path / "r.html").stat().st_size > 5000, made.stderr
    refused = run(command, "train", "--data", "synthetic:16", "--out", tmp_path / "run")
    assert (
        refused.returncode == 1 and "edge-derm[train]" in refused.stderr and refused.stderr.count("\n") == 1
    )


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for CPython 3.12 and later"
)
def test_tflite_runtime_decides_like_the_reference_kernels(pytestconfig, tiny_bundle, picture):
    python = make_environment(Path(str(pytestconfig.cache.mkdir("legacy"))) / "2.14.0", *LEGACY)
    script = "from edge_derm.cli import main; main()"
    done = run(
        python,
        "-c",
        script,
        "predict",
        tiny_bundle,
        picture,
        "--backend",
        "tflite-runtime",
        "--json",
        "-",
        path=ROOT,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)[0]["probabilities"]
    missing = run(python, "-c", script, "predict", tiny_bundle, picture, path=ROOT)
    assert missing.returncode == 1 and "ai-edge-litert" in missing.stderr
    from edge_derm.data import preprocess, read_image
    from edge_derm.runtime import Classifier

    classifier = Classifier.open(tiny_bundle, kernels="reference")
    expected = classifier.predict(preprocess(read_image(picture), classifier.size_px))[0]
    assert np.abs(np.array(list(theirs.values())) - expected).max() <= 2 / 256

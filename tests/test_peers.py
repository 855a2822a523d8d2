"""Peers and the environments they live in: the same scores, times in turn, and a reason for each that cannot run."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_derm.data import preprocess
from edge_derm.errors import TargetError
from edge_derm.measure import elsewhere
from edge_derm.runtime import Classifier
from scripts_of import benchmark

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def peers():
    """benchmarks/peers.py as a module."""
    return benchmark("peers")


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["uint8", "float32"])
def test_every_litert_peer_scores_a_frame_like_the_product_and_takes_its_turns(
    peers, tiny_models, frame, tmp_path, recipe
):
    (tmp_path / "model.tflite").write_bytes(tiny_models[recipe])
    np.save(tmp_path / "frame.npy", frame)
    classifier = Classifier.of(tiny_models[recipe])
    expected = classifier.predict(preprocess(frame, classifier.size_px, order="bgr"))[0]
    running = [
        peers.Peer(name, tmp_path / "model.tflite", tmp_path / "frame.npy", classifier.size_px)
        for name in ("edge_derm", "litert", "litert-benchmark")
    ]
    try:
        for peer in running:
            assert peer.runs, peer.hello
            np.testing.assert_allclose(peer.hello["scores"]["frame"], expected, atol=1 / 256)
            assert peers.apart(peer, running[1], "frame") < 1 / 256
            times = peer.time("frame")
            assert len(times) == peers.RUNS and min(times) > 0
    finally:
        for peer in running:
            peer.close()
    order = [peer.name for _, peer in peers.turns(running, 3)]
    assert order[:3] == ["edge_derm", "litert", "litert-benchmark"] and order[3] == "litert"


def test_a_peer_that_cannot_run_is_a_row_that_says_why(peers, tmp_path, frame):
    np.save(tmp_path / "frame.npy", frame)
    peer = peers.Peer("litert", tmp_path / "absent.tflite", tmp_path / "frame.npy", 32)
    row = peers.row(peer, [peer], {})
    peer.close()
    assert not peer.runs and "absent.tflite" in row["missing"] and "not run" in peers.text(row)


def test_a_ratio_of_rounds_is_the_written_out_one(peers):
    pairs = np.array([[2.0, 4.0], [3.0, 4.0], [1.0, 4.0]])
    found = peers.interval(pairs, lambda p: np.median(p[:, 0] / p[:, 1]))
    assert found["value"] == 0.5 and 0.25 <= found["low"] <= 0.5 <= found["high"] <= 0.75


def test_a_python_that_is_named_is_used_and_one_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGE_DERM_TFLITE_RUNTIME_PYTHON", raising=False)
    assert elsewhere.find_python("tflite-runtime") is None
    monkeypatch.setenv("EDGE_DERM_TFLITE_RUNTIME_PYTHON", sys.executable)
    assert elsewhere.make_python("tflite-runtime") == Path(sys.executable)
    monkeypatch.setenv("EDGE_DERM_TFLITE_RUNTIME_PYTHON", str(tmp_path / "python"))
    with pytest.raises(TargetError, match="EDGE_DERM_TFLITE_RUNTIME_PYTHON") as caught:
        elsewhere.find_python("tflite-runtime")
    assert caught.value.code == "python-missing"


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_leaves_nothing_and_gives_pips_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(
        elsewhere.ENVIRONMENTS, "mediapipe", (f"{tmp_path}/no-such-wheel-1.0-py3-none-any.whl",)
    )
    monkeypatch.delenv("EDGE_DERM_MEDIAPIPE_PYTHON", raising=False)
    with pytest.raises(TargetError, match="EDGE_DERM_MEDIAPIPE_PYTHON") as caught:
        elsewhere.make_python("mediapipe")
    assert caught.value.code == "python-not-made" and "no-such-wheel" in str(caught.value)
    assert os.listdir(tmp_path / "edge-derm" / "python") == []

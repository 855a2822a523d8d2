"""Labels and normalisation inside the .tflite: readable by others, and the model computes as before."""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.bundle import check_model, embed_metadata, read_metadata
from edge_derm.bundle.graft import add_metadata
from edge_derm.errors import BundleError
from edge_derm.runtime import Classifier
from firmware_bridge import tflite
from pictures import varied_images

LABELS = ("akiec", "bcc", "mel", "nävus")
RECIPES = ("int8", "uint8", "int16", "float32")
MEDIAPIPE = "1.2.3"


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_embedded_reads_back(tiny_models: Mapping[str, bytes], recipe: str) -> None:
    model = embed_metadata(
        tiny_models[recipe], labels=LABELS, mean=(128.0, 127.5, 0.0), std=(128.0, 127.5, 1.0)
    )
    found = read_metadata(model)
    assert found.labels == LABELS
    assert found.mean == (128.0, 127.5, 0.0) and found.std == (128.0, 127.5, 1.0)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_embedding_never_changes_a_score(
    tiny_models: Mapping[str, bytes], tiny_images: np.ndarray, recipe: str, kernels: str
) -> None:
    plain = Classifier.of(tiny_models[recipe], LABELS, kernels=kernels)
    told = Classifier.of(embed_metadata(tiny_models[recipe], labels=LABELS), kernels=kernels)
    assert told.labels == LABELS
    np.testing.assert_array_equal(plain.stored(tiny_images), told.stored(tiny_images))


def test_the_old_bytes_are_kept_as_they_are_and_weights_stay_aligned(tiny_int8: bytes) -> None:
    model = embed_metadata(tiny_int8, labels=LABELS)
    start = model.index(tiny_int8)
    assert start % 64 == 0
    old, new = check_model(tiny_int8), check_model(model)
    assert [(op.name, op.inputs, op.outputs, op.options) for op in old.ops] == [
        (op.name, op.inputs, op.outputs, op.options) for op in new.ops
    ]
    for before, after in zip(old.tensors, new.tensors, strict=True):
        assert (before.name, before.shape, before.dtype) == (after.name, after.shape, after.dtype)
        if before.data is not None and after.data is not None:
            np.testing.assert_array_equal(before.data, after.data)


def test_other_metadata_entries_stay(tiny_int8: bytes) -> None:
    before, after = (
        check_model(tiny_int8).metadata,
        check_model(embed_metadata(tiny_int8, labels=LABELS)).metadata,
    )
    assert set(after) == {*before, "TFLITE_METADATA"}
    assert all(bytes(after[name]) == bytes(before[name]) for name in before)


def test_embedding_the_same_again_changes_nothing(tiny_int8: bytes) -> None:
    model = embed_metadata(tiny_int8, labels=LABELS)
    assert embed_metadata(model, labels=LABELS) == model


def test_embedding_anew_replaces_labels_and_archive(tiny_int8: bytes) -> None:
    model = embed_metadata(embed_metadata(tiny_int8, labels="abcd"), labels=LABELS, mean=(0.0,), std=(1.0,))
    assert read_metadata(model).labels == LABELS and read_metadata(model).mean == (0.0,)
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        assert archive.namelist() == ["labels.txt"]


def test_unzip_lists_and_extracts_the_labels(tmp_path: Path, tiny_int8: bytes) -> None:
    unzip = shutil.which("unzip")
    if unzip is None:
        pytest.skip("unzip is not installed: its view of the label file was not checked")
    path = tmp_path / "model.tflite"
    path.write_bytes(embed_metadata(tiny_int8, labels=LABELS))
    assert (
        "labels.txt" in subprocess.run([unzip, "-l", path], capture_output=True, text=True, check=True).stdout
    )
    shown = subprocess.run([unzip, "-p", path, "labels.txt"], capture_output=True, check=True).stdout
    assert shown.decode().splitlines() == list(LABELS)


def test_googles_generated_reader_finds_every_field(tiny_uint8: bytes) -> None:
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(embed_metadata(tiny_uint8, labels=LABELS), 0)
    bare = schema.ModelT.InitFromPackedBuf(tiny_uint8, 0)
    entry = next(entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
    assert bytes(model.buffers[entry.buffer].data)[4:8] == b"M001"
    assert (model.version, model.description) == (bare.version, bare.description)
    assert len(model.buffers) == len(bare.buffers) + 1 and len(model.metadata) == len(bare.metadata) + 1
    assert [s.signatureKey for s in model.signatureDefs or []] == [
        s.signatureKey for s in bare.signatureDefs or []
    ]


@pytest.mark.parametrize("labels", [["a", "", "c", "d"], ["a", "b\nc", "d", "e"], ["a", "b", "c", "\u2028"]])
def test_labels_that_one_line_each_cannot_hold_are_refused(tiny_int8: bytes, labels: list[str]) -> None:
    with pytest.raises(BundleError) as refused:
        embed_metadata(tiny_int8, labels=labels)
    assert refused.value.code == "metadata-labels"


def test_a_model_without_metadata_says_nothing(tiny_int8: bytes) -> None:
    found = read_metadata(tiny_int8)
    assert found.labels is found.mean is found.std is None


def test_a_broken_archive_or_flatbuffer_is_named(tiny_int8: bytes) -> None:
    whole = embed_metadata(tiny_int8, labels=LABELS)
    without_archive = whole[: whole.rindex(b"PK\x03\x04")]
    garbage = add_metadata(tiny_int8, "TFLITE_METADATA", b"\xff" * 64)
    for model in (without_archive, garbage, add_metadata(tiny_int8, "TFLITE_METADATA", b"")):
        with pytest.raises(BundleError) as refused:
            read_metadata(model)
        assert refused.value.code == "metadata-broken"
    assert read_metadata(embed_metadata(without_archive, labels=LABELS)).labels == LABELS


@settings(max_examples=200, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=8))
def test_hostile_metadata_reads_or_is_refused(tiny_int8: bytes, changes: list[tuple[int, int]]) -> None:
    whole = embed_metadata(tiny_int8, labels=LABELS)
    start, archive = tflite_metadata_span(whole), whole.rindex(tiny_int8) + len(tiny_int8)
    altered = bytearray(whole)
    for where, value in changes:  # in the metadata or in the archive, never in the model
        low, high = start if where % 2 else (archive, len(whole))
        altered[low + where % (high - low)] = value
    try:
        read_metadata(bytes(altered))
    except BundleError as error:
        assert error.code == "metadata-broken"


def tflite_metadata_span(model: bytes) -> tuple[int, int]:
    data = bytes(tflite.parse(model).metadata["TFLITE_METADATA"])
    start = model.index(data)
    return start, start + len(data)


@pytest.fixture(scope="session")
def mediapipe_python(pytestconfig: pytest.Config) -> Path:
    """MediaPipe in an environment of its own (its dependencies clash with ours), kept in pytest's cache."""
    folder = (
        Path(str(pytestconfig.cache.mkdir("mediapipe")))
        / f"{MEDIAPIPE}-{sys.version_info[0]}.{sys.version_info[1]}"
    )
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", f"mediapipe=={MEDIAPIPE}"]
        made = subprocess.run(install, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"MediaPipe {MEDIAPIPE} did not install, labels not compared: {made.stderr[-300:]}")
        (folder / "complete").touch()
    return python


def classify_with_mediapipe(
    python: Path, model: bytes, images: np.ndarray, folder: Path
) -> list[dict[str, float]]:
    (folder / "model.tflite").write_bytes(model)
    np.save(folder / "images.npy", images)
    script = Path(__file__).parent / "mediapipe_classify.py"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run([str(python), str(script), str(folder / "model.tflite"), str(folder / "images.npy")],
                         capture_output=True, text=True, env=environment)  # fmt: skip
    if "cannot open shared object file" in ran.stderr:
        pytest.skip(
            f"MediaPipe lacks a system library (apt-get install libegl1 libgles2): {ran.stderr[-300:]}"
        )
    assert ran.returncode == 0, ran.stderr[-2000:]
    answers: list[dict[str, float]] = json.loads(ran.stdout)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "tolerance"), [("uint8", 1.5 / 256), ("float32", 1e-4)])
def test_mediapipe_gives_our_labels(
    mediapipe_python: Path, tiny_models: Mapping[str, bytes], tmp_path: Path, recipe: str, tolerance: float
) -> None:
    images = varied_images(64)
    model = embed_metadata(tiny_models[recipe], labels=LABELS)
    ours = Classifier.of(model).raw(images)
    theirs = classify_with_mediapipe(mediapipe_python, model, images, tmp_path)
    scores = np.array([[answer[label] for label in LABELS] for answer in theirs])
    np.testing.assert_allclose(scores, ours, atol=tolerance)
    ranked = np.sort(ours, axis=1)
    clear = ranked[:, -1] > ranked[:, -2]  # a tie may be broken either way
    assert clear.sum() >= 50 and len(set(ours.argmax(axis=1)[clear])) >= 2
    np.testing.assert_array_equal(scores.argmax(axis=1)[clear], ours.argmax(axis=1)[clear])

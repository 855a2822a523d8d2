"""The integer geometry of SPEC.md is that of training and of OpenCV, to the byte."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_derm.data.preprocess import preprocess
from firmware_bridge import board
from firmware_bridge.graph import LinkError
from firmware_bridge.link import TensorInfo
from firmware_bridge.pixels import encode_image, entries, fit

INT8 = TensorInfo("int8", (1, 24, 24, 3), 1 / 128, 0)
SIZES = [
    (1, 1),
    (1, 9),
    (24, 24),
    (25, 31),
    (47, 90),
    (48, 48),
    (49, 49),
    (97, 300),
    (450, 600),
    (23, 24),
    (1000, 3),
]


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("size_px", [1, 24, 96, 128])
def test_an_image_gets_the_bytes_that_training_gave_it(height, width, size_px):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    assert np.array_equal(fit(image, size_px), preprocess(image, size_px))


def test_random_sizes_are_resized_as_opencv_does():
    rng = np.random.default_rng(3)
    for _ in range(150):
        side, size_px = int(rng.integers(1, 150)), int(rng.integers(76, 200))
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        expected = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_LINEAR_EXACT)
        assert np.array_equal(fit(image, size_px).reshape(expected.shape), expected), (side, size_px)


def test_this_projects_models_store_the_pixel_or_the_pixel_less_128():
    pixels = np.arange(256)
    assert np.array_equal(entries(INT8, mean=128, std=128), pixels - 128)
    assert np.array_equal(entries(TensorInfo("uint8", (1,), 1 / 128, 128), mean=128, std=128), pixels)
    assert np.array_equal(entries(TensorInfo("int8", (1,), 1 / 255, -128), mean=0, std=255), pixels - 128)


def test_halves_are_rounded_away_from_zero_and_ends_are_clipped():
    table = entries(TensorInfo("int8", (1,), 2.0, 100), mean=128, std=1)
    assert [table[p] for p in (0, 127, 129, 131, 255)] == [100 - 64, 99, 101, 102, 127]


def test_a_grey_model_gets_opencvs_grey():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    stored = np.frombuffer(encode_image(image, TensorInfo("uint8", (1, 24, 24, 1), 1 / 128, 128)), np.uint8)
    assert np.array_equal(stored.reshape(24, 24), cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def test_what_is_no_image_or_no_image_model_is_a_named_error():
    image = np.zeros((4, 4, 3), np.uint8)
    for given, tensor in [(image[..., 0], INT8), (image.astype(float), INT8), (image[:0], INT8)] + [
        (image, TensorInfo("int8", shape, 1.0, 0))
        for shape in ((1, 12), (1, 8, 9, 3), (2, 8, 8, 3), (1, 8, 8, 4))
    ]:
        with pytest.raises(LinkError) as caught:
            encode_image(given, tensor)
        assert caught.value.code == "image-shape"
    with pytest.raises(LinkError) as caught:
        encode_image(image, INT8, std=0.0)
    assert caught.value.code == "normalisation"


def fit_in_c(cases: list[tuple[np.ndarray, TensorInfo]], folder, *, extra=board.SANITIZE) -> list[bytes]:
    sources = [Path(__file__).parent / "fit_pixels.c", board.FIRMWARE / "ed_pixels.c"]
    made = board.build(sources, board.find_board("host"), out=folder, include=[board.FIRMWARE], extra=extra)
    given = b"".join(
        struct.pack("<4i", tensor.shape[1], tensor.shape[3], image.shape[1], image.shape[0])
        + entries(tensor, mean=128, std=128).tobytes()
        + image.tobytes()
        for image, tensor in cases
    )
    done = subprocess.run([made.executable], input=given, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    out, at = [], 0
    for _, tensor in cases:
        out.append(done.stdout[at : at + tensor.bytes])
        at += tensor.bytes
    assert at == len(done.stdout)
    return out


def test_the_device_makes_the_same_bytes_of_a_frame_as_training_and_host(tmp_path):
    """C under the sanitizers, NumPy and OpenCV: 200 frames of random and of awkward sizes, colour and grey."""
    if board.missing_tools(board.find_board("host")):
        pytest.skip("no C compiler on this machine")
    rng, cases = np.random.default_rng(11), []
    shapes = SIZES + [tuple(map(int, rng.integers(1, 210, 2))) for _ in range(90)]
    for height, width in shapes:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        size_px = int(rng.choice([1, 24, 32, 96]))
        cases.append((image, TensorInfo("int8", (1, size_px, size_px, 3), 1 / 128, 0)))
        cases.append((image, TensorInfo("uint8", (1, size_px, size_px, 1), 0.0041, 100)))
    made = fit_in_c(cases, tmp_path)
    for (image, tensor), data in zip(cases, made, strict=True):
        assert data == encode_image(image, tensor), (image.shape, tensor.shape)
        if tensor.dtype == "int8":
            assert data == (preprocess(image, tensor.shape[1]) ^ np.uint8(0x80)).tobytes()

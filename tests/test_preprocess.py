"""One geometry, integer-exact, whatever the platform."""

import concurrent.futures
import hashlib
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.data import preprocess, read_image
from edge_derm.errors import DataError

# SHA-256 of the bytes of known pixels through known sizes: the same on x86-64 and arm64.
GOLDEN = {
    (480, 640, 128): "870fa048ab160f6b",
    (224, 224, 128): "449723a909964fe1",
    (37, 91, 64): "56766395d5b45e68",
    (1081, 999, 96): "ce2162f1e122990a",
}


def known_pixels(height: int, width: int) -> np.ndarray:
    """A linear congruential generator's high bytes: nobody's random library."""
    state, values = 12345, bytearray()
    for _ in range(height * width * 3):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(state >> 24)
    return np.frombuffer(bytes(values), np.uint8).reshape(height, width, 3)


def reduce_plainly(image: np.ndarray, size_px: int) -> np.ndarray:
    """Crop and halve as the module's docstring says, with slow plain integers."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    x = image[top : top + side, left : left + side].astype(np.int64)
    while x.shape[0] >= 2 * size_px:
        half = x.shape[0] // 2
        x = x[: 2 * half, : 2 * half]
        x = (x[0::2, 0::2] + x[0::2, 1::2] + x[1::2, 0::2] + x[1::2, 1::2] + 2) >> 2
    return x.astype(np.uint8)


@pytest.mark.parametrize("shape", sorted(GOLDEN))
def test_known_pixels_give_known_bytes(shape):
    height, width, size_px = shape
    found = preprocess(known_pixels(height, width), size_px)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN[shape]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_equals_the_plain_integer_definition(height, width, size_px, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reduced = reduce_plainly(image, size_px)
    expected = (
        reduced
        if reduced.shape[0] == size_px
        else cv2.resize(reduced, (size_px, size_px), interpolation=cv2.INTER_LINEAR_EXACT)
    )
    assert np.array_equal(preprocess(image, size_px), expected)


@pytest.mark.parametrize("size_px", [1, 2, 7, 24, 64, 96, 128, 160])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("three", [True, False])  # channels; the machine decides
def test_every_side_that_goes_through_a_map_gets_the_bytes_of_the_exact_resize(
    size_px, order, three, monkeypatch
):
    module = sys.modules["edge_derm.data.preprocess"]
    monkeypatch.setattr(module, "_THREE_CHANNELS", three)
    rng = np.random.default_rng(size_px)
    sides = [side for side in range(size_px + 1, 2 * size_px) if module._maps(side, size_px)]
    assert sides == [side for side in range(size_px + 1, 2 * size_px) if 16 * side % size_px == 0]
    for side in sides:
        noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        for image in (noise, (noise & 1) * np.uint8(255)):  # black and white: the most halves to round
            expected = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_LINEAR_EXACT)
            expected = expected if order == "rgb" else expected[..., ::-1]
            assert np.array_equal(preprocess(image, size_px, order=order), expected), side


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 24), st.integers(0, 2**32 - 1))
def test_the_last_resize_stays_within_one_and_a_half_of_exact_bilinear(size_px, side, seed):
    """Weights of 8 bits are off by 1/512 at most: twice 255/512, and a half for the rounding."""
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    small = reduce_plainly(image, size_px).astype(np.float64)
    at = np.clip((np.arange(size_px) + 0.5) * small.shape[0] / size_px - 0.5, 0, small.shape[0] - 1)
    low = np.minimum(at.astype(int), small.shape[0] - 1)
    high, part = np.minimum(low + 1, small.shape[0] - 1), (at - low)
    rows = small[low] * (1 - part)[:, None, None] + small[high] * part[:, None, None]
    exact = rows[:, low] * (1 - part)[None, :, None] + rows[:, high] * part[None, :, None]
    assert np.abs(preprocess(image, size_px) - exact).max() <= 2 * 255 / 512 + 0.5 + 1e-9


def test_bgr_and_rgb_agree():
    image = known_pixels(60, 80)
    swapped = np.ascontiguousarray(image[:, :, ::-1])
    assert np.array_equal(preprocess(swapped, 32, order="bgr"), preprocess(image, 32))


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_arrays_are_refused(bad):
    with pytest.raises(DataError, match="expected uint8") as caught:
        preprocess(bad, 8)
    assert caught.value.code == "image-shape"


def test_files_of_every_kind_become_rgb(tmp_path):
    colour = np.zeros((20, 30, 3), np.uint8)
    colour[:, :, 2] = 200  # red in OpenCV's order
    cv2.imwrite(str(tmp_path / "a.png"), colour)
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((20, 30), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((20, 30), 77 * 257, np.uint16))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([colour, np.full((20, 30), 9, np.uint8)]))
    assert tuple(read_image(tmp_path / "a.png")[0, 0]) == (200, 0, 0)
    assert tuple(read_image(tmp_path / "alpha.png")[0, 0]) == (200, 0, 0)
    assert tuple(read_image(tmp_path / "grey.png")[0, 0]) == (77, 77, 77)
    assert tuple(read_image(tmp_path / "deep.png")[0, 0]) == (77, 77, 77)


def test_broken_and_missing_files_are_named(tmp_path):
    whole = cv2.imencode(".jpg", known_pixels(64, 64))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.jpg", "text.jpg", "empty.png"):
        with pytest.raises(DataError, match=name) as caught:
            read_image(tmp_path / name)
        assert caught.value.code == "image-broken"
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("side", [64, 100, 128, 200, 480, 999])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_result_is_never_overwritten_by_a_later_call_nor_shared_between_threads(side, order):
    rng = np.random.default_rng(side)
    images = [rng.integers(0, 256, (side, side + 7, 3), dtype=np.uint8) for _ in range(6)]
    first = [preprocess(image, 64, order=order) for image in images]
    kept = [pixels.copy() for pixels in first]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda image: preprocess(image, 64, order=order), images * 8))
    for pixels, copy in zip(first, kept):
        np.testing.assert_array_equal(pixels, copy)
    for i, pixels in enumerate(again):
        np.testing.assert_array_equal(pixels, kept[i % len(images)])
    images[0][:] = 0
    assert side == 64 or (first[0] == kept[0]).all()

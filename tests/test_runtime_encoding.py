"""Every way of writing pixels into a tensor stores what the quantisation formula says, for all 256 values."""

from __future__ import annotations

import numpy as np
import pytest

from edge_derm.bundle import Input
from edge_derm.errors import BundleError
from edge_derm.runtime.backends import TensorSpec
from edge_derm.runtime.encoding import encoder, table

RAMP = np.stack([np.arange(256), np.arange(255, -1, -1), np.arange(256) // 2], -1).astype(np.uint8)
RAMP = np.ascontiguousarray(RAMP.reshape(1, 16, 16, 3))


def spec(dtype: str, scale: float = 0.0, zero_point: int = 0) -> TensorSpec:
    return TensorSpec(name="x", shape=(1, 16, 16, 3), dtype=dtype, scale=scale, zero_point=zero_point)


def encoded(shape: Input, tensor: TensorSpec) -> np.ndarray:
    view = np.empty(tensor.shape, tensor.dtype)
    encoder(shape, tensor)(RAMP, view)
    return view


def test_our_own_uint8_input_is_the_pixel() -> None:
    np.testing.assert_array_equal(encoded(Input(16, "uint8"), spec("uint8", 1 / 128, 128)), RAMP)


def test_our_own_int8_input_is_the_pixel_minus_128() -> None:
    expected = RAMP.astype(int) - 128
    np.testing.assert_array_equal(encoded(Input(16, "int8"), spec("int8", 1 / 128, 0)), expected)


def test_our_own_float_input_is_exact() -> None:
    np.testing.assert_array_equal(encoded(Input(16, "float32"), spec("float32")), RAMP / 128 - 1)


def test_int16_uses_its_full_range() -> None:
    expected = np.round((RAMP / 128 - 1) * 32767)
    np.testing.assert_array_equal(encoded(Input(16, "int16"), spec("int16", 1 / 32767, 0)), expected)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero"), [("int8", 0.0187, -14), ("uint8", 0.0175, 114), ("int8", 0.5, 3)]
)
@pytest.mark.parametrize(
    ("mean", "std"),
    [((127.5,), (127.5,)), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), ((0.0,), (1.0,))],
)
def test_foreign_quantisation_follows_the_formula(
    dtype: str, scale: float, zero: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    limits = np.iinfo(dtype)
    real = (RAMP.astype(np.float64) - mean) / std
    expected = np.clip(np.floor(np.abs(real / scale) + 0.5) * np.sign(real) + zero, limits.min, limits.max)
    np.testing.assert_array_equal(
        encoded(Input(16, dtype, mean=mean, std=std), spec(dtype, scale, zero)), expected
    )


@pytest.mark.parametrize("mean", [(127.5,), (123.675, 116.28, 103.53)])
def test_foreign_float_normalisation_is_rounded_once(mean: tuple[float, ...]) -> None:
    expected = ((RAMP.astype(np.float64) - mean) / 58.0).astype(np.float32)
    shape = Input(16, "float32", mean=mean, std=(58.0,) * len(mean))
    np.testing.assert_array_equal(encoded(shape, spec("float32")), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
def test_channels_are_turned_for_a_bgr_model(dtype: str) -> None:
    tensor = spec(dtype, 0.02, 5)
    turned = encoded(Input(16, dtype, colour_order="bgr", mean=(10.0, 20.0, 30.0), std=(40.0,)), tensor)
    entries = table(Input(16, dtype, mean=(10.0, 20.0, 30.0), std=(40.0,)), tensor)
    expected = np.stack([entries[RAMP[..., 2 - channel], channel] for channel in range(3)], -1)
    np.testing.assert_array_equal(turned, expected)


def test_an_integer_input_without_a_scale_is_refused() -> None:
    with pytest.raises(BundleError) as refused:
        encoder(Input(16, "int8"), spec("int8"))
    assert refused.value.code == "model-quantization"

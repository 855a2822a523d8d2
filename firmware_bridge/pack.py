"""A layer's numbers as the C kernels want them: weights in their order, zero points folded, scales in fixed point.

Fixed point follows TensorFlow Lite's reference kernels, float32 where they compute in float32. Arrays of a
product are padded with zeros (outputs to an even number, inputs of each output to a multiple of four), so they
may be longer than the layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping, NamedTuple

import numpy as np

from firmware_bridge.graph import UnsupportedError

SOURCES: Mapping[str, tuple[str, ...]] = {
    "CONV_2D": ("ed_conv.c", "ed_product.c"),
    "DEPTHWISE_CONV_2D": ("ed_depthwise.c",),
    "FULLY_CONNECTED": ("ed_product.c",),
    "AVERAGE_POOL_2D": ("ed_pool.c",),
    "MAX_POOL_2D": ("ed_pool.c",),
    "MEAN": ("ed_pool.c",),
    "ADD": ("ed_elementwise.c",),
    "MUL": ("ed_elementwise.c",),
    "LOGISTIC": ("ed_elementwise.c",),
    "QUANTIZE": ("ed_elementwise.c", "ed_move.c"),
    "PAD": ("ed_move.c",),
    "CONCATENATION": ("ed_move.c",),
    "SOFTMAX": ("ed_softmax.c",),
    "RESHAPE": (),
}
"""The files of firmware/kernels that an operator needs, beside HEADERS."""

HEADERS = (
    "ed_kernels.h",
    "ed_inside.h",
    "ed_dsp.h",
    "ed_product_dsp.h",
    "ed_product_helium.h",
    "ed_depthwise_dsp.h",
    "ed_depthwise_helium.h",
)

ADD_LEFT_SHIFT = 20
_SAFE = 2**30  # sums below it, doubled, still fit 32 bits
_MOST_CLASSES = 4095  # TFLite sums their exponentials with 12 integer bits


class Scale(NamedTuple):
    """A real factor as multiplier · 2^(shift − 31)."""

    multiplier: int
    shift: int


@dataclass(frozen=True)
class Packed:
    """Weights in the kernels' order; int32 bias with the input's zero point folded in, multiplier and shift of each
    output. ``fast``: no input can bring a sum to ±2^30, and every shift goes right."""

    weights: bytes
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray
    fast: bool


def quantize_multiplier(real: float) -> Scale:
    """Return ``real`` (≥ 0) in fixed point, as TFLite's QuantizeMultiplier: 0 below 2^-32, bounded above."""
    fraction, shift = math.frexp(real)
    fixed = math.floor(fraction * 2**31 + 0.5)
    if fixed == 2**31:
        fixed, shift = fixed // 2, shift + 1
    if shift < -31:
        return Scale(0, 0)
    return Scale(2**31 - 1, 30) if shift > 30 else Scale(fixed, shift)


def conv_scale(in_scale: float, weight_scales: np.ndarray, out_scale: float) -> np.ndarray:
    """float64 [outputs]: the factor of each output's sum of a convolution (or per-channel fully connected layer)."""
    return np.float64(in_scale) * np.asarray(weight_scales, np.float64) / np.float64(out_scale)


def fc_scale(in_scale: float, weight_scale: float, out_scale: float) -> float:
    """The factor of a fully connected layer with one weight scale: TFLite multiplies these two in float32."""
    return float(np.float64(np.float32(in_scale) * np.float32(weight_scale)) / np.float64(out_scale))


def activation_range(name: str, scale: float, zero: int) -> tuple[int, int]:
    """Return (low, high) of an int8 output with fused activation ``name`` (NONE, RELU, RELU6, RELU_N1_TO_1)."""
    ends = {"NONE": (None, None), "RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}
    if name not in ends:
        raise UnsupportedError(
            f"expected a fused activation of {', '.join(ends)}; got {name}", code="unsupported-operator"
        )
    low, high = (
        None if end is None else zero + _round(np.float32(end) / np.float32(scale)) for end in ends[name]
    )
    return max(-128, -128 if low is None else low), min(127, 127 if high is None else high)


def pack_product(weights: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, *, in_zero: int) -> Packed:
    """Pack a convolution or fully connected layer.

    ``weights`` int8 [outputs, …inputs of one output]; ``bias`` int32 [outputs] or None; ``scale`` float64
    [outputs] or [1].
    """
    flat = np.array(weights, np.int64).reshape(len(weights), -1)
    outputs, depth = flat.shape
    padded = np.zeros((outputs + outputs % 2, -(-depth // 4) * 4), np.int64)
    padded[:outputs, :depth] = flat
    settled = _settle(padded, bias, scale, outputs=outputs, in_zero=in_zero)
    pairs = padded.reshape(len(padded) // 2, 2, -1).transpose(0, 2, 1)
    return Packed(
        pairs.astype(np.int8).tobytes(), *settled.arrays, fast=settled.small and settled.most_shift < 0
    )


def pack_depthwise(
    weights: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, *, in_zero: int, multiplier: int = 1
) -> Packed:
    """Pack a depthwise convolution: ``weights`` int8 [1, taps_y, taps_x, outputs]; the rest as ``pack_product``.

    Its ``fast`` allows a shift of 0.
    """
    del multiplier  # the order of weights does not depend on it today
    rows = np.array(weights, np.int64).reshape(-1, weights.shape[-1]).T
    settled = _settle(rows, bias, scale, outputs=len(rows), in_zero=in_zero)
    return Packed(
        rows.T.astype(np.int8).tobytes(), *settled.arrays, fast=settled.small and settled.most_shift <= 0
    )


class _Settled(NamedTuple):
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]  # int32 bias, multiplier, shift
    small: bool
    most_shift: int


def _settle(
    rows: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, *, outputs: int, in_zero: int
) -> _Settled:
    """``rows`` int64 [outputs or more, inputs of one output]: the weights by output; cleared where they do not matter."""
    sums = np.zeros(len(rows), np.int64)
    sums[:outputs] = 0 if bias is None else bias
    sums -= in_zero * rows.sum(1)
    most = sums + np.maximum(rows * 127, rows * -128).sum(1)
    least = sums + np.minimum(rows * 127, rows * -128).sum(1)
    found = [quantize_multiplier(float(real)) for real in np.broadcast_to(scale, outputs)]
    found += [Scale(0, 0)] * (len(rows) - outputs)
    for n, one in enumerate(found):
        constant = _constant(int(least[n]), int(most[n]), one)
        if constant is not None:
            rows[n], found[n] = 0, Scale(2**30, -1)  # a quarter
            sums[n] = least[n] = most[n] = 4 * constant
    multiplier, shift = np.array(found, np.int64).T
    folded = (sums + 2**31) % 2**32 - 2**31
    arrays = (folded.astype(np.int32), multiplier.astype(np.int32), shift.astype(np.int32))
    return _Settled(arrays, bool(max(most.max(), -least.min()) < _SAFE), int(shift.max()))


def _constant(least: int, most: int, scale: Scale) -> int | None:
    """What every sum from ``least`` to ``most`` becomes, if it is one value, however rounded; beyond int8, any beyond.

    Calibration gives dead channels such a scale, with a bias of ±2^30 that would forbid the faster arithmetic.
    """
    if not (-(2**31) <= least and most < 2**31) or scale.shift > 0:
        return None
    once = ((x * scale.multiplier + 2 ** (30 - scale.shift)) >> (31 - scale.shift) for x in (least, most))
    ends = {min(max(x, -600), 600) for x in (*once, rescale(least, scale), rescale(most, scale))}
    return ends.pop() if len(ends) == 1 else None


def pack_add(a_scale: float, b_scale: float, out_scale: float) -> tuple[Scale, Scale, Scale]:
    """Return the scales of input a, input b and output of an ADD, whose inputs are shifted left by ADD_LEFT_SHIFT."""
    twice = float(2 * np.maximum(np.float32(a_scale), np.float32(b_scale)))
    out = twice / float(np.float32(2**ADD_LEFT_SHIFT) * np.float32(out_scale))
    reals = (float(np.float32(a_scale)) / twice, float(np.float32(b_scale)) / twice, out)
    found = tuple(quantize_multiplier(real) for real in reals)
    return found[0], found[1], found[2]


def pack_mul(a_scale: float, b_scale: float, out_scale: float) -> Scale:
    """Return the factor of a MUL's integer products; TFLite computes it in float32."""
    return quantize_multiplier(float(np.float32(a_scale) * np.float32(b_scale) / np.float32(out_scale)))


def pack_mean(in_scale: float, out_scale: float, *, in_zero: int, pixels: int) -> tuple[Scale, int]:
    """Return (scale, offset) of a MEAN over ``pixels``: out = zero + scale · (sum − offset)."""
    multiplier, shift = quantize_multiplier(float(np.float64(in_scale) / np.float64(out_scale)))
    more = min(pixels.bit_length() - 1, 32, 31 + shift)
    return Scale((multiplier << more) // pixels, shift - more), in_zero * pixels


def pack_softmax(in_scale: float, beta: float, *, depth: int) -> tuple[int, int, int]:
    """Return (multiplier, shift, least) of ed_softmax; UnsupportedError ``unsupported-shape`` above 4095 classes."""
    if depth > _MOST_CLASSES:
        raise UnsupportedError(
            f"SOFTMAX: expected at most {_MOST_CLASSES} classes, got {depth}", code="unsupported-shape"
        )
    multiplier, shift = quantize_multiplier(min(float(beta) * float(in_scale) * 2.0**26, 2.0**31 - 1))
    return multiplier, shift, -_input_radius(5, shift)


def table_requantize(in_scale: float, in_zero: int, out_scale: float, out_zero: int) -> np.ndarray:
    """int8 [256]: QUANTIZE from int8 to int8, for inputs −128 … 127."""
    scale = quantize_multiplier(float(np.float64(in_scale) / np.float64(out_scale)))
    values = [rescale(x - in_zero, scale) + out_zero for x in range(-128, 128)]
    return np.clip(values, -128, 127).astype(np.int8)


def table_logistic(in_scale: float, in_zero: int) -> np.ndarray:
    """int8 [256]: LOGISTIC to scale 1/256, zero point −128, for inputs −128 … 127 (gemmlowp's fixed point)."""
    multiplier, shift = quantize_multiplier(float(in_scale) * 2.0**27)
    radius = _input_radius(4, shift)
    values = []
    for x in range(-128, 128):
        if abs(x - in_zero) >= radius:
            values.append(127 if x > in_zero else -128)
            continue
        q23 = _halve(_logistic(rescale(x - in_zero, Scale(multiplier, shift))), 23)
        values.append(q23 - 128)
    return np.clip(values, -128, 127).astype(np.int8)


def _logistic(a: int) -> int:
    """1 / (1 + exp(-a)) in Q0.31 for ``a`` in Q4.27."""
    if a == 0:
        return 2**30
    positive = _one_over_one_plus(_exp_negative(-abs(a)))
    return positive if a > 0 else 2**31 - 1 - positive


def _exp_negative(a: int) -> int:
    """exp(a) in Q0.31 for ``a`` < 0 in Q4.27: a quarter by series, the rest by products."""
    quarter = 1 << 25
    low = (a & (quarter - 1)) - quarter
    x = (low << 4) + 2**28
    x2 = _high(x, x)
    x3, x4 = _high(x2, x), _high(x2, x2)
    tail = _halve(_high(_halve(x4, 2) + x3, 715827883) + x2, 1)
    result = 1895147668 + _high(1895147668, x + tail)
    for k, power in enumerate((1672461947, 1302514674, 790015084, 290630308, 39332535, 720401)):
        if (low - a) & (quarter << k):
            result = _high(result, power)
    return result


def _one_over_one_plus(a: int) -> int:
    """1 / (1 + a) in Q0.31 for ``a`` in [0, 1) in Q0.31: three Newton steps in Q2.29."""
    half = (a + 2**31) >> 1
    x = 1515870810 + _high(half, -1010580540)
    for _ in range(3):
        x += _high(x, 2**29 - _high(half, x)) * 4
    return min(2 * x, 2**31 - 1)


def _high(a: int, b: int) -> int:
    return (a * b + 2**30) >> 31


def _halve(a: int, shift: int) -> int:
    half = 1 << shift >> 1
    return (a + half) >> shift if a >= 0 else -((half - a) >> shift)


def rescale(value: int, scale: Scale) -> int:
    """Return TFLite's MultiplyByQuantizedMultiplier: halves up in the product, away from zero in the shift."""
    left, right = max(scale.shift, 0), max(-scale.shift, 0)
    shifted = (value * 2**left + 2**31) % 2**32 - 2**31
    return _halve(_high(shifted, scale.multiplier), right)


def _round(value: np.floating) -> int:
    return math.floor(float(value) + 0.5) if value >= 0 else -math.floor(0.5 - float(value))


def _input_radius(integer_bits: int, left_shift: int) -> int:
    return math.floor(((1 << integer_bits) - 1) * 2.0 ** (31 - integer_bits) / 2.0**left_shift)

"""Random layers for the C kernels: their parameters, their C, and the right answer by NumPy integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable, Sequence

import numpy as np

from firmware_bridge import pack


@dataclass(frozen=True)
class Case:
    """One layer: input int8 [height, width, channels]; weights int8 [outputs, kh, kw, channels], or
    [1, kh, kw, outputs] if ``depthwise``; ``kernel`` names the C function."""

    kernel: str
    x: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    in_zero: int = 0
    out_zero: int = 0
    limits: tuple[int, int] = (-128, 127)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)  # top, left
    out: tuple[int, int] = (1, 1)  # rows, columns
    rows: tuple[int, int] = (0, 0)  # first output row wanted, how many; (0, 0): all
    capacity: int = 0  # of the ring that holds the input; 0: every row has its own place

    @property
    def taps(self) -> tuple[int, int]:
        return self.weights.shape[1:3]

    @property
    def wanted(self) -> tuple[int, int]:
        return self.rows if self.rows[1] else (0, self.out[0])

    @property
    def outputs(self) -> int:
        return self.weights.shape[-1] if self.kernel == "depthwise" else len(self.weights)

    @property
    def macs(self) -> int:
        per_output = self.weights[0].size // (self.outputs if self.kernel == "depthwise" else 1)
        return self.wanted[1] * self.out[1] * self.outputs * per_output


def answer(case: Case) -> np.ndarray:
    """int8 [wanted rows, columns, outputs]: the definition, in Python integers that cannot overflow."""
    first, count = case.wanted
    made = np.empty((count, case.out[1], case.outputs), np.int64)
    for y in range(count):
        for x in range(case.out[1]):
            made[y, x] = _sums(case, first + y, x)
    found = [pack.quantize_multiplier(float(real)) for real in np.resize(case.scale, case.outputs)]
    for n, (multiplier, shift) in enumerate(found):
        scale = scaled_once if case.kernel == "fully_connected" else scaled
        made[..., n] = scale(_int32(made[..., n] + case.bias[n]), multiplier, shift)
    return np.clip(made + case.out_zero, *case.limits).astype(np.int8)


def _sums(case: Case, y: int, x: int) -> np.ndarray:
    height, width, channels = case.x.shape
    window = np.full((*case.taps, channels), 0, np.int64)  # real zero: the stored zero point minus itself
    for i in range(case.taps[0]):
        for j in range(case.taps[1]):
            row = y * case.stride[0] - case.pad[0] + i * case.dilation[0]
            column = x * case.stride[1] - case.pad[1] + j * case.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                window[i, j] = case.x[row, column].astype(np.int64) - case.in_zero
    if case.kernel == "depthwise":
        window = np.repeat(window, case.outputs // channels, axis=2)
        return (window * case.weights[0].astype(np.int64)).sum((0, 1))
    return (window * case.weights.astype(np.int64)).reshape(case.outputs, -1).sum(1)


def _int32(values: np.ndarray) -> np.ndarray:
    return (values + 2**31) % 2**32 - 2**31


def scaled(values: np.ndarray, multiplier: int, shift: int) -> np.ndarray:
    """gemmlowp's two roundings: of a doubled high product (half up), then of a shift (half away from zero)."""
    shifted = _int32(values * 2 ** max(shift, 0))
    high = (shifted * multiplier + 2**30) // 2**31
    divisor = 2 ** max(-shift, 0)
    return np.sign(high) * ((np.abs(high) + divisor // 2) // divisor)


def scaled_once(values: np.ndarray, multiplier: int, shift: int) -> np.ndarray:
    """The exact product, rounded once, halves up: what LiteRT's fully connected kernel does (measured)."""
    exact = [(int(v) * multiplier + 2 ** (30 - shift)) >> (31 - shift) for v in values.flat]
    return np.array(exact, object).reshape(values.shape).clip(-(2**20), 2**20).astype(np.int64)


def packed(case: Case) -> pack.Packed:
    """The layer as pack.py gives it."""
    if case.kernel == "depthwise":
        multiplier = case.outputs // case.x.shape[2]
        return pack.pack_depthwise(
            case.weights, case.bias, case.scale, in_zero=case.in_zero, multiplier=multiplier
        )
    return pack.pack_product(case.weights, case.bias, case.scale, in_zero=case.in_zero)


def program(cases: Sequence[Case], *, timed: bool = False) -> str:
    """C that runs every case and writes the output bytes, or (``timed``) instructions of each as ``case_N=``."""
    parts = ['#include "ed_kernels.h"', '#include "port.h"', "static ED_ALIGNED int8_t made[1 << 17];"]
    calls = []
    for number, case in enumerate(cases):
        text, call = _render(case, f"c{number}")
        size = case.wanted[1] * case.out[1] * case.outputs
        parts.append(text)
        if timed:
            calls.append(
                f'    ed_port_count_start(); {call} ed_port_report("case_{number}", ed_port_count());'
            )
        else:
            calls.append(f"    {call} ed_port_write(made, {size});")
    return "\n".join([*parts, "int main(void) {", "    ed_port_init();", *calls, "    return 0;", "}", ""])


def _render(case: Case, name: str) -> tuple[str, str]:
    layer, (first, count) = packed(case), case.wanted
    ring = _ring(case)
    scale = np.stack([layer.multiplier, layer.shift], 1)
    text = [
        _array(f"{name}_x", "int8_t", ring.reshape(-1)),
        _array(f"{name}_w", "int8_t", np.frombuffer(layer.weights, np.int8), "ED_ALIGNED "),
        _array(f"{name}_b", "int32_t", layer.bias),
        f"static const struct ed_scale {name}_s[] = {{"
        + ",".join(f"{{{m},{s}}}" for m, s in scale.tolist())
        + "};",
    ]
    if case.kernel in ("conv", "depthwise"):
        text.append(
            f"static const struct ed_rows {name}_r = {{{name}_x, {case.x.shape[1] * case.x.shape[2]}, {len(ring)}, "
            f"{len(case.x)}}};"
        )
    tail = f"{name}_w, {name}_b, {name}_s, {case.out_zero}, {case.limits[0]}, {case.limits[1]}, {int(layer.fast)}"
    product = f"{{{case.weights[0].size}, {case.outputs}, {tail}}}"
    height, width, channels = case.x.shape
    numbers = (
        width,
        channels,
        *case.taps,
        *case.stride,
        *case.dilation,
        *case.pad,
        case.out[1],
        case.in_zero,
    )
    window = "{" + ", ".join(map(str, numbers)) + "}"
    fields = {
        "depthwise": f"{{{window}, {case.outputs // channels}, {tail}}}",
        "conv": f"{{{window}, {product}}}",
    }.get(case.kernel, product)
    kind = case.kernel if case.kernel in ("conv", "depthwise") else "product"
    text.append(f"static const struct ed_{kind} {name} = {fields};")
    arguments = {
        "pointwise": f"{name}_x, made, {height * width}",
        "fully_connected": f"{name}_x, made, {height * width}",
    }.get(case.kernel, f"&{name}_r, made, {first}, {count}")
    return "\n".join(text), f"ed_{case.kernel}(&{name}, {arguments});"


def _ring(case: Case) -> np.ndarray:
    """The input as the ring holds it when the wanted rows are made: later rows have overwritten earlier ones."""
    if not case.capacity:
        return case.x
    ring = np.full((case.capacity, *case.x.shape[1:]), 99, np.int8)
    first, count = case.wanted
    needed = [y for k in range(first, first + count) for y in _reads(case, k)]
    assert not needed or max(needed) - min(needed) < case.capacity
    for y in needed:
        ring[y % case.capacity] = case.x[y]
    return ring


def _reads(case: Case, y: int) -> Iterable[int]:
    rows = (y * case.stride[0] - case.pad[0] + i * case.dilation[0] for i in range(case.taps[0]))
    return [row for row in rows if 0 <= row < len(case.x)]


def _array(name: str, kind: str, values: np.ndarray, attribute: str = "") -> str:
    lines = ",".join(map(str, values.tolist())).replace("-2147483648", "-2147483647 - 1")
    return f"static const {attribute}{kind} {name}[] = {{{lines}}};"


def random_case(kernel: str, rng: np.random.Generator) -> Case:
    """A layer of any geometry; now and then with extreme weights, scales, biases or limits."""
    window = kernel in ("conv", "depthwise")
    height, width = rng.integers(1, 10, 2).tolist() if kernel != "fully_connected" else (1, 1)
    channels = int(rng.choice([1, 2, 3, 4, 5, 7, 8, 12, 16, 19, 24, 33]))
    taps = rng.integers(1, 5, 2).tolist() if window and rng.random() < 0.6 else [3, 3] if window else [1, 1]
    stride = rng.integers(1, 4, 2).tolist() if window else [1, 1]
    dilation = rng.integers(1, 4, 2).tolist() if window and rng.random() < 0.5 else [1, 1]
    pad = [int(rng.integers(0, (t - 1) * d + 1)) for t, d in zip(taps, dilation)]
    behind = [int(rng.integers(0, (t - 1) * d + 1)) for t, d in zip(taps, dilation)]
    out = [
        max(1, (size + p + b - (t - 1) * d - 1) // s + 1)
        for size, p, b, t, d, s in zip((height, width), pad, behind, taps, dilation, stride)
    ]
    outputs = int(rng.integers(1, 12))
    if kernel == "depthwise":
        outputs = channels * int(rng.choice([1, 1, 1, 2, 3]))
    shape = (1, *taps, outputs) if kernel == "depthwise" else (outputs, *taps, channels)
    case = Case(
        kernel,
        rng.integers(-128, 128, (height, width, channels)).astype(np.int8),
        rng.integers(-127, 128, shape).astype(np.int8),
        rng.integers(-(2**14), 2**14, outputs).astype(np.int32),
        10 ** rng.uniform(-4.5, -1.5, outputs),
        in_zero=int(rng.integers(-128, 128)),
        out_zero=int(rng.integers(-128, 128)),
        stride=tuple(stride),
        dilation=tuple(dilation),
        pad=tuple(pad),
        out=tuple(out) if window else (height, width),
    )
    return _cut(_odd(case, rng), rng)


def _odd(case: Case, rng: np.random.Generator) -> Case:
    kind = rng.integers(0, 10)
    if kind == 0:  # the most negative weight and input: no 16-bit pair holds two such weights
        return replace(case, weights=np.full_like(case.weights, -128), x=np.full_like(case.x, -128))
    if kind == 1:  # left shifts and none
        return replace(case, scale=rng.choice([0.5, 0.75, 1.0, 1.9, 7.0], case.outputs))
    if kind == 2:  # dead channels: multipliers of 0 and the smallest there are
        return replace(case, scale=rng.choice([0.0, 1e-12, 2.0**-32, 3e-10, 1e-3], case.outputs))
    if kind == 3:  # accumulators near the ends of 32 bits
        return replace(case, bias=(rng.choice([-1, 1], case.outputs) * 2_000_000_000).astype(np.int32))
    if kind == 6:  # dead channels as calibration leaves them
        dead = rng.random(case.outputs) < 0.5
        bias = np.where(dead, rng.choice([-1, 1], case.outputs) * 2**30, case.bias).astype(np.int32)
        tiny = 2.0**-30 * rng.choice([0.3, 1.0, 9.0, 200.0], case.outputs)
        return replace(case, bias=bias, scale=np.where(dead, tiny, case.scale))
    if kind == 7:  # a depthwise channel whose shift is 0
        return replace(case, scale=np.where(rng.random(case.outputs) < 0.5, 0.7, case.scale))
    if kind == 4:  # exact halves
        return replace(case, scale=2.0 ** rng.integers(-12, -1, case.outputs).astype(float))
    low = int(rng.integers(-128, 100))
    return replace(case, limits=(low, int(rng.integers(low, 128)))) if kind == 5 else case


def _cut(case: Case, rng: np.random.Generator) -> Case:
    """A few output rows from a ring just large enough."""
    if case.kernel not in ("conv", "depthwise") or rng.random() < 0.3:
        return case
    first = int(rng.integers(0, case.out[0]))
    case = replace(case, rows=(first, int(rng.integers(1, case.out[0] - first + 1))))
    needed = [y for k in range(first, first + case.rows[1]) for y in _reads(case, k)]
    return replace(case, capacity=max(needed) - min(needed) + 1) if needed else case

"""Single operators drawn by hypothesis, many of them beside one another in one .tflite model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import hypothesis.strategies as st
import numpy as np

import tiny_tflite
from tiny_tflite import Writer, options

_PADDING = {"SAME": 0, "VALID": 1}
_ACTIVATION = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
KINDS = (
    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED ADD MUL AVERAGE_POOL_2D MAX_POOL_2D MEAN PAD SOFTMAX LOGISTIC"
    " QUANTIZE CONCATENATION"
).split()


@dataclass(frozen=True)
class Operator:
    """What was drawn; ``fields`` differ by ``kind``. ``seed`` draws the weights."""

    kind: str
    shape: tuple[int, int, int]  # of the input: height, width, channels
    fields: Mapping[str, Any]
    seed: int


@st.composite
def operators(draw: st.DrawFn) -> Operator:
    """Any supported operator, any geometry, zero points and scales."""
    kind = draw(st.sampled_from([*KINDS, "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D"]))
    side = st.integers(1, 9)
    shape = (draw(side), draw(side), draw(st.integers(1, 20)))
    zero = st.integers(-128, 127)
    fields: dict[str, Any] = {
        "in_zero": draw(zero),
        "out_zero": draw(zero),
        "in_scale": draw(st.floats(0.004, 0.1)),
        "gain": draw(st.floats(0.2, 3.0)),  # of the output's spread over the range of int8
        "activation": draw(st.sampled_from(list(_ACTIVATION))),
        "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
    }
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D"):
        fields |= draw(_window(shape, pool=kind.endswith("POOL_2D")))
    if kind in ("CONV_2D", "FULLY_CONNECTED"):
        fields["outputs"] = draw(st.integers(1, 13))
    if kind == "DEPTHWISE_CONV_2D":
        fields["multiplier"] = draw(st.sampled_from([1, 1, 1, 2, 3]))
    fields["bias"], fields["per_channel"] = draw(st.booleans()), draw(st.booleans())
    fields["pads"] = draw(st.tuples(*[st.integers(0, 3)] * 4))
    fields["broadcast"] = draw(st.booleans())
    if kind in ("ADD", "MUL"):
        fields["repeated"] = draw(st.sampled_from(["no", "channels", "pixels"]))
    return Operator(kind, shape, fields, draw(st.integers(0, 2**32 - 1)))


@st.composite
def _window(draw: st.DrawFn, shape: Sequence[int], *, pool: bool) -> dict[str, Any]:
    taps = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (5, 5), (2, 3), (1, 4), (4, 2)]))
    dilation = (1, 1) if pool else draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (3, 1), (1, 2), (4, 4)]))
    fits = all((t - 1) * d < size for t, d, size in zip(taps, dilation, shape))
    padding = draw(st.sampled_from(["SAME", "VALID"])) if fits else "SAME"
    return {"taps": taps, "dilation": dilation, "padding": padding}


def build(drawn: Sequence[Operator]) -> bytes:
    """Return a model with one input and one output (or two inputs) for each operator."""
    writer = Writer()
    for number, operator in enumerate(drawn):
        _Case(writer, operator, f"n{number}").add()
    return bytes(tiny_tflite.pack(writer))


class _Case:
    """Writes one operator."""

    def __init__(self, writer: Writer, operator: Operator, name: str) -> None:
        self.writer, self.operator, self.name = writer, operator, name
        self.fields = operator.fields
        self.rng = np.random.default_rng(operator.seed)

    def add(self) -> None:
        kind, shape = self.operator.kind, (1, *self.operator.shape)
        if kind in ("FULLY_CONNECTED", "SOFTMAX"):
            shape = (1, int(np.prod(shape[1:])) if kind == "FULLY_CONNECTED" else shape[3])
        self.source = self.input(shape)
        getattr(self, f"_{kind.lower()}")(shape)

    def input(self, shape: Sequence[int], scale: float | None = None, zero: int | None = None) -> int:
        index = self.writer.tensor(
            f"{self.name}/in",
            shape,
            scale=self.fields["in_scale"] if scale is None else scale,
            zero_point=[self.fields["in_zero"] if zero is None else zero],
        )
        self.writer.graph.inputs.append(index)
        return index

    def finish(
        self, inputs: Sequence[int], shape: Sequence[int], scale: float, zero: int, given: Any = None
    ) -> None:
        output = self.writer.tensor(f"{self.name}/out", shape, scale=scale, zero_point=[zero])
        self.writer.op(self.operator.kind, inputs, [output], given)
        self.writer.graph.outputs.append(output)

    def size(self, place: int) -> int:
        """Output rows (place 0) or columns of a window."""
        f, size = self.fields, self.operator.shape[place]
        extent = size if f["padding"] == "SAME" else size - (f["taps"][place] - 1) * f["dilation"][place]
        return -(-extent // f["stride"][place])

    def weighted(
        self, weights: np.ndarray, axis: int, outputs: int, shape: Sequence[int], given: Any
    ) -> None:
        f = self.fields
        per_channel = f["per_channel"] and self.operator.kind != "FULLY_CONNECTED"
        scales = np.float32(10 ** self.rng.uniform(-3, -1.5, outputs if per_channel else 1))
        filters = self.writer.tensor(f"{self.name}/w", weights.shape, scale=scales, axis=axis, data=weights)
        inputs = [self.source, filters]
        if f["bias"] or self.operator.kind == "CONV_2D":  # LiteRT wants one there
            values = self.rng.integers(-3000, 3000, outputs, dtype=np.int32)
            scale = np.float32(f["in_scale"]) * scales
            inputs.append(
                self.writer.tensor(f"{self.name}/b", [outputs], dtype="int32", scale=scale, data=values)
            )
        deep = weights.size // outputs
        spread = f["in_scale"] * float(scales.max()) * 70 * 70 * deep**0.5
        self.finish(inputs, shape, spread * f["gain"] / 128, f["out_zero"], given)

    def geometry(self) -> dict[str, int]:
        f = self.fields
        return {
            "strideH": f["stride"][0],
            "strideW": f["stride"][1],
            "padding": _PADDING[f["padding"]],
            "fusedActivationFunction": _ACTIVATION[f["activation"]],
        }

    def _conv_2d(self, shape: Sequence[int]) -> None:
        f = self.fields
        weights = self.rng.integers(-127, 128, (f["outputs"], *f["taps"], shape[3])).astype(np.int8)
        dilation = {"dilationHFactor": f["dilation"][0], "dilationWFactor": f["dilation"][1]}
        given = options("Conv2D", **self.geometry(), **dilation)
        self.weighted(weights, 0, f["outputs"], (1, self.size(0), self.size(1), f["outputs"]), given)

    def _depthwise_conv_2d(self, shape: Sequence[int]) -> None:
        f = self.fields
        outputs = shape[3] * f["multiplier"]
        weights = self.rng.integers(-127, 128, (1, *f["taps"], outputs)).astype(np.int8)
        dilation = {"dilationHFactor": f["dilation"][0], "dilationWFactor": f["dilation"][1]}
        given = options("DepthwiseConv2D", **self.geometry(), **dilation, depthMultiplier=f["multiplier"])
        self.weighted(weights, 3, outputs, (1, self.size(0), self.size(1), outputs), given)

    def _fully_connected(self, shape: Sequence[int]) -> None:
        f = self.fields
        weights = self.rng.integers(-127, 128, (f["outputs"], shape[1])).astype(np.int8)
        given = options("FullyConnected", fusedActivationFunction=_ACTIVATION[f["activation"]])
        self.weighted(weights, 0, f["outputs"], (1, f["outputs"]), given)

    def _two(self, shape: Sequence[int], kind: str, scale: float) -> None:
        f = self.fields
        narrowed = {"channels": (1, 1, 1, shape[3]), "pixels": (*shape[:3], 1)}
        other = self.input(
            narrowed.get(f["repeated"], shape), self.other_scale, int(self.rng.integers(-128, 128))
        )
        given = options(kind, fusedActivationFunction=_ACTIVATION[f["activation"]])
        inputs = [other, self.source] if f["broadcast"] else [self.source, other]
        self.finish(inputs, shape, scale, f["out_zero"], given)

    @property
    def other_scale(self) -> float:
        return self.fields["in_scale"] * (0.2 + self.fields["gain"])

    def _add(self, shape: Sequence[int]) -> None:
        self._two(shape, "Add", (self.fields["in_scale"] + self.other_scale) * self.fields["gain"] / 2)

    def _mul(self, shape: Sequence[int]) -> None:
        self._two(shape, "Mul", self.fields["in_scale"] * self.other_scale * 60 * self.fields["gain"])

    def _pool(self, shape: Sequence[int]) -> None:
        f = self.fields
        given = options("Pool2D", **self.geometry(), filterHeight=f["taps"][0], filterWidth=f["taps"][1])
        output = (1, self.size(0), self.size(1), shape[3])
        self.finish([self.source], output, f["in_scale"], f["in_zero"], given)

    _average_pool_2d = _max_pool_2d = _pool

    def _mean(self, shape: Sequence[int]) -> None:
        f = self.fields
        axes = self.writer.tensor(f"{self.name}/axes", [2], dtype="int32", data=np.array([1, 2], np.int32))
        output = (1, 1, 1, shape[3]) if f["broadcast"] else (1, shape[3])
        given = options("Reducer", keepDims=f["broadcast"])
        self.finish([self.source, axes], output, f["in_scale"] * f["gain"] / 2, f["out_zero"], given)

    def _pad(self, shape: Sequence[int]) -> None:
        f = self.fields
        top, bottom, left, right = f["pads"]
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        pads = self.writer.tensor(f"{self.name}/pads", [4, 2], dtype="int32", data=amounts)
        output = (1, shape[1] + top + bottom, shape[2] + left + right, shape[3])
        self.finish([self.source, pads], output, f["in_scale"], f["in_zero"], options("Pad"))

    def _softmax(self, shape: Sequence[int]) -> None:
        self.finish([self.source], shape, 1 / 256, -128, options("Softmax", beta=1.0))

    def _logistic(self, shape: Sequence[int]) -> None:
        self.finish([self.source], shape, 1 / 256, -128)

    def _quantize(self, shape: Sequence[int]) -> None:
        f = self.fields
        self.finish([self.source], shape, f["in_scale"] * f["gain"], f["out_zero"], options("Quantize"))

    def _concatenation(self, shape: Sequence[int]) -> None:
        f = self.fields
        channels = 1 + self.operator.seed % 7
        other = self.input((*shape[:3], channels))
        output = (*shape[:3], shape[3] + channels)
        self.finish(
            [self.source, other], output, f["in_scale"], f["in_zero"], options("Concatenation", axis=3)
        )

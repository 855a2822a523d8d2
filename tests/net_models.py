"""Whole int8 networks with random weights, written operator by operator: what converters make of published families.

Output scales are chosen so that values spread over int8, from the sizes of weights and inputs.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

import tiny_tflite
from firmware_bridge.plan_stages import same_padding

SAME, VALID = 0, 1
NONE, RELU, RELU6 = 0, 1, 3


class Net(tiny_tflite.Writer):
    """A network that grows at its last tensor; every method returns the index of the tensor it made."""

    def __init__(self, shape: Sequence[int], seed: int, *, edge: str = "int8") -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.scales: dict[int, tuple[float, int]] = {}
        self.edge = edge
        if edge == "int8":
            at = self.value("input", (1, *shape), 1 / 64, 3)
            self.graph.inputs = [at]
        else:
            zero = 131 if edge == "uint8" else None
            outer = self.tensor(
                "input", [1, *shape], dtype=edge, scale=1 / 64 if zero else None, zero_point=zero
            )
            at = self.value("stored", (1, *shape), 1 / 64, 3)
            self.op("QUANTIZE", [outer], [at], tiny_tflite.options("Quantize"))
            self.graph.inputs = [outer]
        self.at = at

    def value(self, name: str, shape: Sequence[int], scale: float, zero: int) -> int:
        index = self.tensor(name, list(shape), scale=scale, zero_point=zero)
        self.shapes[index], self.scales[index] = tuple(shape), (float(np.float32(scale)), zero)
        return index

    def conv(
        self,
        source: int,
        channels: int,
        taps=(3, 3),
        *,
        stride=(1, 1),
        dilation=(1, 1),
        padding=SAME,
        activation=RELU,
        per_channel=True,
        depthwise=False,
        zero=None,
    ) -> int:
        """CONV_2D of ``channels``, or DEPTHWISE_CONV_2D whose multiplier is ``channels``."""
        _, height, width, depth = self.shapes[source]
        outputs = depth * channels if depthwise else channels
        sizes = [
            (
                same_padding(n, k, stride=s, dilation=d)[0]
                if padding == SAME
                else max(-(-(n - (k - 1) * d) // s), 0)
            )
            for n, k, s, d in zip((height, width), taps, stride, dilation)
        ]
        shape = (1, *taps, outputs) if depthwise else (outputs, *taps, depth)
        inputs = taps[0] * taps[1] * (1 if depthwise else depth)
        in_scale = self.scales[source][0]
        scales = self.rng.uniform(0.5, 1.5, outputs if per_channel else 1) / 127 / np.sqrt(inputs)
        weights = self.rng.integers(-127, 128, shape, np.int8)
        kernel = self.tensor("kernel", shape, scale=scales, axis=3 if depthwise else 0, data=weights)
        offsets = self.rng.integers(-20, 20, outputs) / np.resize(scales, outputs) * 0.5
        bias = self.tensor(
            "bias", [outputs], dtype="int32", scale=scales * in_scale, data=offsets.astype(np.int32)
        )
        zero = (-128 if activation else int(self.rng.integers(-20, 20))) if zero is None else zero
        out = self.value("map", (1, *sizes, outputs), in_scale * self.rng.uniform(0.4, 1.1), zero)
        fields = dict(
            padding=padding,
            strideH=stride[0],
            strideW=stride[1],
            dilationHFactor=dilation[0],
            dilationWFactor=dilation[1],
            fusedActivationFunction=activation,
        )
        if depthwise:
            fields["depthMultiplier"] = channels
        kind = "DepthwiseConv2D" if depthwise else "Conv2D"
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self.op(name, [source, kernel, bias], [out], tiny_tflite.options(kind, **fields))
        return out

    def depthwise(self, source: int, taps=(3, 3), *, multiplier=1, **options) -> int:
        return self.conv(source, multiplier, taps, depthwise=True, **options)

    def two(self, name: str, a: int, b: int, *, activation=NONE) -> int:
        """ADD or MUL."""
        scale = max(self.scales[a][0], self.scales[b][0])
        shape = np.broadcast_shapes(self.shapes[a], self.shapes[b])
        out = self.value(name, shape, scale * self.rng.uniform(0.7, 1.6), int(self.rng.integers(-128, 60)))
        kind = {"ADD": "Add", "MUL": "Mul"}[name]
        self.op(name, [a, b], [out], tiny_tflite.options(kind, fusedActivationFunction=activation))
        return out

    def constant(self, shape: Sequence[int]) -> int:
        scale, zero = float(self.rng.uniform(0.005, 0.02)), int(self.rng.integers(-30, 30))
        data = self.rng.integers(-128, 128, shape, np.int8)
        index = self.tensor("constant", list(shape), scale=scale, zero_point=zero, data=data)
        self.shapes[index], self.scales[index] = tuple(shape), (float(np.float32(scale)), zero)
        return index

    def pool(
        self, name: str, source: int, taps: tuple[int, int], stride: tuple[int, int], padding=VALID
    ) -> int:
        shape = self.shapes[source]
        sizes = [
            same_padding(n, k, stride=s)[0] if padding == SAME else -(-(n - k + 1) // s)
            for n, k, s in zip(shape[1:3], taps, stride)
        ]
        out = self.value("pooled", (1, *sizes, shape[3]), *self.scales[source])
        fields = dict(
            padding=padding, strideH=stride[0], strideW=stride[1], filterHeight=taps[0], filterWidth=taps[1]
        )
        self.op(name, [source], [out], tiny_tflite.options("Pool2D", **fields))
        return out

    def mean(self, source: int, *, keep: bool = False) -> int:
        shape = self.shapes[source]
        axes = self.tensor("axes", [2], dtype="int32", data=np.array([1, 2], np.int32))
        made = (1, 1, 1, shape[3]) if keep else (1, shape[3])
        out = self.value("mean", made, self.scales[source][0] * 0.6, int(self.rng.integers(-128, 20)))
        self.op("MEAN", [source, axes], [out], tiny_tflite.options("Reducer", keepDims=keep))
        return out

    def pad(self, source: int, amounts: Sequence[Sequence[int]]) -> int:
        table = self.tensor("amounts", [4, 2], dtype="int32", data=np.array(amounts, np.int32))
        shape = [n + sum(pair) for n, pair in zip(self.shapes[source], amounts)]
        out = self.value("padded", shape, *self.scales[source])
        self.op("PAD", [source, table], [out], tiny_tflite.options("Pad"))
        return out

    def concat(self, sources: Sequence[int], axis: int = 3) -> int:
        shape = list(self.shapes[sources[0]])
        shape[axis] = sum(self.shapes[source][axis] for source in sources)
        out = self.value("joined", shape, *self.scales[sources[0]])
        self.op("CONCATENATION", list(sources), [out], tiny_tflite.options("Concatenation", axis=axis))
        return out

    def requantize(self, source: int, like: int) -> int:
        out = self.value("requantised", self.shapes[source], *self.scales[like])
        self.op("QUANTIZE", [source], [out], tiny_tflite.options("Quantize"))
        return out

    def reshape(self, source: int, shape: Sequence[int]) -> int:
        target = self.tensor("shape", [len(shape)], dtype="int32", data=np.array(shape, np.int32))
        out = self.value("reshaped", shape, *self.scales[source])
        self.op("RESHAPE", [source, target], [out], tiny_tflite.options("Reshape", newShape=list(shape)))
        return out

    def logistic(self, source: int) -> int:
        out = self.value("gate", self.shapes[source], 1 / 256, -128)
        self.op("LOGISTIC", [source], [out])
        return out

    def dense(self, source: int, units: int, *, per_channel=False) -> int:
        depth = self.shapes[source][-1]
        scales = self.rng.uniform(0.5, 1.5, units if per_channel else 1) / 127 / np.sqrt(depth)
        data = self.rng.integers(-127, 128, (units, depth), np.int8)
        weights = self.tensor("weights", [units, depth], scale=scales, data=data)
        offsets = self.rng.integers(-2000, 2000, units).astype(np.int32)
        bias = self.tensor(
            "bias", [units], dtype="int32", scale=scales * self.scales[source][0], data=offsets
        )
        out = self.value("logits", (*self.shapes[source][:-1], units), self.scales[source][0] * 0.06, 5)
        self.op("FULLY_CONNECTED", [source, weights, bias], [out], tiny_tflite.options("FullyConnected"))
        return out

    def softmax(self, source: int) -> int:
        out = self.value("probabilities", self.shapes[source], 1 / 256, -128)
        self.op("SOFTMAX", [source], [out], tiny_tflite.options("Softmax", beta=1.0))
        return out

    def finish(self, *outputs: int) -> bytes:
        """The file; the last output gets the same edge as the input."""
        last = outputs[-1]
        scale, zero = self.scales[last]
        ends = list(outputs)
        if self.edge == "uint8":
            ends[-1] = self.tensor(
                "output", self.shapes[last], dtype="uint8", scale=scale, zero_point=zero + 128
            )
            self.op("QUANTIZE", [last], [ends[-1]], tiny_tflite.options("Quantize"))
        elif self.edge == "float32":
            ends[-1] = self.tensor("output", self.shapes[last], dtype="float32")
            self.op("DEQUANTIZE", [last], [ends[-1]], tiny_tflite.options("Dequantize"))
        self.graph.outputs = ends
        return tiny_tflite.pack(self)


def residual(edge: str = "int8", size: int = 32) -> bytes:
    """ResNet-8 of MLPerf Tiny: three stacks of two 3×3 convolutions, 1×1 stride-2 shortcuts, ADD + ReLU."""
    net = Net((size, size, 3), 1, edge=edge)
    at = net.conv(net.at, 16)
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        inner = net.conv(net.conv(at, channels, stride=(stride, stride)), channels, activation=NONE)
        short = at if stride == 1 else net.conv(at, channels, (1, 1), stride=(2, 2), activation=NONE)
        at = net.two("ADD", short, inner, activation=RELU)
    side = size // 4
    at = net.pool("AVERAGE_POOL_2D", at, (side, side), (side, side))
    return net.finish(net.softmax(net.dense(net.reshape(at, (1, 64)), 10)))


def inverted(edge: str = "int8") -> bytes:
    """MobileNetV2-like: PAD + VALID stride 2, expansion, linear bottlenecks, ADD, 5×5 depthwise, squeeze-excite."""
    net = Net((24, 20, 3), 2, edge=edge)
    at = net.conv(
        net.pad(net.at, [(0, 0), (0, 1), (0, 1), (0, 0)]), 8, stride=(2, 2), padding=VALID, activation=RELU6
    )
    for expand, channels, stride, taps in ((16, 8, 1, 3), (24, 12, 2, 5), (36, 12, 1, 5)):
        wide = net.conv(at, expand, (1, 1), activation=RELU6)
        deep = net.depthwise(wide, (taps, taps), stride=(stride, stride), activation=RELU6)
        gate = net.logistic(
            net.conv(net.conv(net.mean(deep, keep=True), 6, (1, 1)), expand, (1, 1), activation=NONE)
        )
        narrow = net.conv(net.two("MUL", deep, gate), channels, (1, 1), activation=NONE)
        at = (
            net.two("ADD", narrow, at)
            if narrow in net.shapes and net.shapes[narrow] == net.shapes[at]
            else narrow
        )
    return net.finish(
        net.softmax(net.dense(net.mean(net.conv(at, 40, (1, 1), activation=RELU6)), 5, per_channel=True))
    )


def odd(edge: str = "int8") -> bytes:
    """What the other families leave out: multiplier 3, dilation, VALID, odd sizes, joins, pools, two outputs."""
    net = Net((17, 13, 2), 3, edge=edge)
    at = net.depthwise(net.at, (3, 5), multiplier=3, padding=VALID)
    at = net.depthwise(at, (3, 3), dilation=(2, 3), activation=RELU6)
    left = net.conv(at, 5, (2, 3), stride=(2, 1), per_channel=False)
    right = net.requantize(net.conv(at, 7, (1, 1), stride=(2, 1), activation=NONE), left)
    at = net.concat([left, right])
    at = net.two("ADD", at, net.constant((12,)))
    at = net.two("MUL", at, net.constant(net.shapes[at]))
    at = net.pool("MAX_POOL_2D", at, (3, 2), (1, 2), padding=SAME)
    first = net.pool("AVERAGE_POOL_2D", at, (3, 3), (2, 2), padding=SAME)
    flat = net.reshape(first, (1, int(np.prod(net.shapes[first]))))
    return net.finish(first, net.softmax(net.dense(flat, 4)))


FAMILIES = {"residual": residual, "inverted": inverted, "odd": odd}

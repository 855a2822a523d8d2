"""MobileNet v1 as a table, its dilated variants, and the arithmetic of both. No TensorFlow here.

Howard et al., 2017, https://arxiv.org/abs/1704.04861. The dilated variants follow the idea of Wang et al., Comput. Intell.
Neurosci. 2020, 8817849 (dilated convolution in shallow layers at no cost in parameters); which layers and rates they used was
not available, so d1, d2 and d3 are this project's reading: the stride-1 depthwise layers dw1, dw3, dw5 at rate 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Mapping

from edge_derm.errors import ModelError

CONV1 = (32, 2)  # output channels at alpha 1, stride
STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
VARIANTS: Mapping[str, Mapping[str, int]] = {
    "mobilenet": {},
    "d1": {"dw1": 2},
    "d2": {"dw1": 2, "dw3": 2},
    "d3": {"dw1": 2, "dw3": 2, "dw5": 2},
}
ATTENTION_SHARE = 16  # feature channels for one channel inside the attention module (``modeling.attention``)
LAYERS = ("conv1", *(f"dw{n}" for n in range(1, len(STAGES) + 1)))


@dataclass(frozen=True)
class Layer:
    """One convolution: ``kind`` is conv (3×3), dw (3×3 depthwise) or pw (1×1); sides in pixels after and before it."""

    name: str
    kind: str
    inputs: int
    outputs: int
    stride: int
    rate: int
    side: int

    @property
    def weights(self) -> int:
        return {
            "conv": 9 * self.inputs * self.outputs,
            "dw": 9 * self.inputs,
            "pw": self.inputs * self.outputs,
        }[self.kind]

    @property
    def macs(self) -> int:
        return self.side**2 * self.weights


def dilation_map(variant: str, dilation: str | None = None) -> dict[str, int]:
    """Rates by layer name: of a variant, or parsed from ``dw1=2,dw3=2`` (which then replaces the variant's).

    Raises:
        ModelError: ``variant-unknown``, ``dilation-syntax``, ``dilation-layer``, ``dilation-rate``, ``dilation-stride``.
    """
    if variant not in VARIANTS:
        raise ModelError(
            f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}", code="variant-unknown"
        )
    if dilation is None:
        return dict(VARIANTS[variant])
    rates: dict[str, int] = {}
    for entry in filter(None, dilation.replace(" ", "").split(",")):
        match = re.fullmatch(r"(\w+)=(\d+)", entry)
        if not match or match[1] in rates:
            raise ModelError(
                f"dilation: expected LAYER=RATE,… such as dw1=2,dw3=2, got {entry!r}", code="dilation-syntax"
            )
        rates[match[1]] = int(match[2])
    check_dilation(rates)
    return {name: rate for name, rate in rates.items() if rate > 1}


def check_dilation(rates: Mapping[str, int]) -> None:
    """Refuse layers that do not exist, rates out of range, and dilation together with a stride of 2 in a depthwise."""
    strides = {"conv1": 1, **{f"dw{n}": stride for n, (_, stride) in enumerate(STAGES, 1)}}
    for name, rate in rates.items():
        if name not in strides:
            raise ModelError(
                f"dilation: expected layers out of conv1, dw1 … dw13, got {name!r}", code="dilation-layer"
            )
        if not 1 <= rate <= 16:
            raise ModelError(
                f"dilation: expected rates from 1 to 16, got {name}={rate}", code="dilation-rate"
            )
        if rate > 1 and strides[name] != 1:
            raise ModelError(
                f"dilation: {name} has stride 2, and a strided dilated layer skips pixels: expected one of conv1, "
                f"{', '.join(n for n, s in strides.items() if s == 1 and n != 'conv1')}",
                code="dilation-stride",
            )


def width(channels: int, alpha: float) -> int:
    """Channels of a layer at width ``alpha``, as Keras applications round them (down)."""
    return int(channels * alpha)


def layers(alpha: float, size_px: int, dilation: Mapping[str, int]) -> tuple[Layer, ...]:
    """The convolutions in order. A stride of 2 halves the side, rounding up, dilated or not."""
    side = -(-size_px // CONV1[1])
    inputs = width(CONV1[0], alpha)
    found = [Layer("conv1", "conv", 3, inputs, CONV1[1], dilation.get("conv1", 1), side)]
    for number, (channels, stride) in enumerate(STAGES, 1):
        side = -(-side // stride)
        outputs = width(channels, alpha)
        found.append(Layer(f"dw{number}", "dw", inputs, inputs, stride, dilation.get(f"dw{number}", 1), side))
        found.append(Layer(f"pw{number}", "pw", inputs, outputs, 1, 1, side))
        inputs = outputs
    return tuple(found)


def attention_units(channels: int) -> int:
    """Channels inside the attention module on a feature map of ``channels``."""
    return max(1, channels // ATTENTION_SHARE)


def attention_weights(channels: int) -> int:
    """Of the module's 1 × 1 and 3 × 3 kernels, biases not counted."""
    return attention_units(channels) * (channels + 9)


def parameters(alpha: float, classes: int, *, attention: bool = False) -> int:
    """Trainable parameters: convolutions without bias, scale and shift of each batch norm, classifier with bias; attention."""
    table = layers(alpha, 32, {})
    features = table[-1].outputs
    extra = attention_weights(features) + attention_units(features) + 1 if attention else 0
    return sum(layer.weights + 2 * layer.outputs for layer in table) + extra + (features + 1) * classes


def macs(alpha: float, size_px: int, classes: int, *, attention: bool = False) -> int:
    """Multiply-accumulates of one image in convolutions and classifier; dilation does not enter."""
    table = layers(alpha, size_px, {})
    features, side = table[-1].outputs, table[-1].side
    extra = side**2 * attention_weights(features) if attention else 0
    return sum(layer.macs for layer in table) + extra + features * classes


def receptive_fields(dilation: Mapping[str, int]) -> dict[str, int]:
    """Receptive field in input pixels after conv1, dw1, dw2, …: r ← r + (k − 1) · rate · jump, jump ← jump · stride."""
    fields, field, jump = {}, 1, 1
    for layer in layers(1.0, 224, dilation):
        if layer.kind == "pw":
            continue
        field += 2 * layer.rate * jump
        jump *= layer.stride
        fields[layer.name] = field
    return fields

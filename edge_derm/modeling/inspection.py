"""Export's check of its own product, with the product's one reader of .tflite files."""

from __future__ import annotations

from collections import Counter
from typing import Mapping

import numpy as np

from edge_derm.errors import ModelError
from firmware_bridge.graph import BridgeError, Graph
from firmware_bridge.summary import Summary, summarize
from firmware_bridge.tflite import parse

CONVOLUTIONS = ("DEPTHWISE_CONV_2D", "CONV_2D")
FLOAT_EDGE = {"QUANTIZE", "DEQUANTIZE"}


def check_product(data: bytes, *, recipe: str, io: str, rates: Mapping[tuple[str, int], int]) -> Summary:
    """Refuse a file that is not what was asked for.

    Args:
        rates: how often each (operator, rate above 1) must be found, as ``fusing.dilation_rates`` says.

    Raises:
        ModelError: ``product-broken``, ``product-batch-space`` (SPACE_TO_BATCH_ND left), ``product-dilation``,
            ``product-unfolded`` (a batch norm left as MUL/ADD), ``product-io``, ``product-input-scale``,
            ``product-float`` (float tensors in an int8 file), ``product-per-tensor`` (convolution weights with one scale).
    """
    try:
        graph = parse(data)
    except BridgeError as error:
        raise ModelError(f"the converter wrote a malformed file: {error}", code="product-broken") from error
    summary = summarize(graph)
    _check_dilation(graph, summary, rates)
    _check_folding(graph)
    _check_edges(graph, io)
    if recipe == "int8":
        _check_no_float(graph, io)
        _check_pixels(graph, io)
        _check_per_channel(graph)
    return summary


def _check_dilation(graph: Graph, summary: Summary, rates: Mapping[tuple[str, int], int]) -> None:
    for name in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"):
        if name in summary.operators:
            raise ModelError(
                f"expected dilation inside the convolutions, got {summary.operators[name]} {name}: "
                "the dilated layers were not fused",
                code="product-batch-space",
            )
    found = Counter(
        (op.name, max(op.options["dilation_h_factor"], op.options["dilation_w_factor"]))
        for op in graph.ops
        if op.name in CONVOLUTIONS
    )
    found = Counter({key: count for key, count in found.items() if key[1] > 1})
    if found != Counter(rates):
        raise ModelError(
            f"expected dilated convolutions {_listed(rates)}, got {_listed(found)}", code="product-dilation"
        )


def _listed(rates: Mapping[tuple[str, int], int]) -> str:
    return (
        ", ".join(f"{count} {name} of rate {rate}" for (name, rate), count in sorted(rates.items())) or "none"
    )


def _check_folding(graph: Graph) -> None:
    convolved = {out for op in graph.ops if op.name in CONVOLUTIONS for out in op.outputs}
    for op in graph.ops:
        constant = any(i >= 0 and graph.tensor(i).data is not None for i in op.inputs)
        if op.name in ("MUL", "ADD", "SUB") and constant and convolved & set(op.inputs):
            raise ModelError(
                f"operator {op.index}: {op.name} after a convolution: a batch norm was not folded",
                code="product-unfolded",
            )


def _check_edges(graph: Graph, io: str) -> None:
    for index in (*graph.inputs, *graph.outputs):
        if graph.tensor(index).dtype != io:
            raise ModelError(
                f"tensor {graph.tensor(index).name}: expected {io} at the edge, got {graph.tensor(index).dtype}",
                code="product-io",
            )


def _check_pixels(graph: Graph, io: str) -> None:
    pixels = graph.tensor(graph.inputs[0])
    if io == "float32":  # the first QUANTIZE's output, then, is where pixels are bytes
        first = next((op for op in graph.ops if op.inputs[:1] == graph.inputs[:1]), None)
        pixels = graph.tensor(first.outputs[0]) if first else pixels
    scale = None if pixels.quantization is None else float(pixels.quantization.scale[0])
    if scale != 1 / 128:
        raise ModelError(f"input scale: expected exactly 1/128, got {scale}", code="product-input-scale")


def _check_no_float(graph: Graph, io: str) -> None:
    allowed = {*graph.inputs, *graph.outputs} if io == "float32" else set()
    for op in graph.ops:
        touched = {
            i for i in (*op.inputs, *op.outputs) if i >= 0 and np.dtype(graph.tensor(i).dtype).kind == "f"
        }
        if touched - allowed or (touched and op.name not in FLOAT_EDGE):
            name = graph.tensor(min(touched)).name
            raise ModelError(
                f"operator {op.index} ({op.name}): float tensor {name} in an int8 file", code="product-float"
            )


def _check_per_channel(graph: Graph) -> None:
    for op in graph.ops:
        if op.name not in CONVOLUTIONS:
            continue
        weights = graph.tensor(op.inputs[1])
        channels = weights.shape[3 if op.name == "DEPTHWISE_CONV_2D" else 0]
        if channels > 1 and (weights.quantization is None or not weights.quantization.per_channel):
            raise ModelError(
                f"operator {op.index} ({op.name}): expected one scale a channel, got one for {channels}",
                code="product-per-tensor",
            )

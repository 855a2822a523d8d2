"""Float ends off a quantised network: a device gets and gives the stored integers.

Converters put QUANTIZE after a float32 input and DEQUANTIZE before a float32 output. Neither belongs on a
device without floating point: the integers inside them become the network's input and output, and their scale
and zero point say what they mean.
"""

from __future__ import annotations

from dataclasses import replace

from firmware_bridge.graph import Graph, Op


def without_float_edges(graph: Graph) -> Graph:
    """Return ``graph`` without QUANTIZE at its float32 inputs and DEQUANTIZE at its float32 outputs.

    A float32 input that anything else reads, or float32 output that anything else makes, stays as it is.
    """
    readers: dict[int, list[Op]] = {}
    for op in graph.ops:
        for index in op.inputs:
            readers.setdefault(index, []).append(op)
    quantize = {
        index: readers[index][0]
        for index in graph.inputs
        if graph.tensor(index).dtype == "float32"
        and [op.name for op in readers.get(index, [])] == ["QUANTIZE"]
    }
    dequantize = {
        op.outputs[0]: op
        for op in graph.ops
        if op.name == "DEQUANTIZE" and op.outputs[0] in graph.outputs and op.outputs[0] not in readers
    }
    gone = {op.index for op in (*quantize.values(), *dequantize.values())}
    return replace(
        graph,
        ops=tuple(op for op in graph.ops if op.index not in gone),
        inputs=tuple(quantize[i].outputs[0] if i in quantize else i for i in graph.inputs),
        outputs=tuple(dequantize[i].inputs[0] if i in dequantize else i for i in graph.outputs),
    )

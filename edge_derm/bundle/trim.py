"""A .tflite with fewer operators, in place: vectors of a flatbuffer are only made shorter: nothing moves, no schema is needed.

Two use it: the profile, which times a model cut after each operator, and the runtime (``bundle.pixels``).
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Sequence

from edge_derm.bundle.structure import check_model
from edge_derm.bundle.tables import field, follow, item, u32, vector
from edge_derm.errors import BundleError, ModelError
from firmware_bridge.graph import Graph, Tensor

_SUBGRAPHS, _SIGNATURES = 2, 7  # fields of table Model in TFLite's schema.fbs
_INPUTS, _OUTPUTS, _OPERATORS = 1, 2, 3  # of table SubGraph


def trim(
    model: bytes, graph: Graph, first: int, last: int, *, inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """Operators ``first`` to ``last`` of ``model``, with these tensors as inputs and outputs (no more of them than before).

    The result is read back before native code may see it.

    Raises:
        ModelError: ``trim-shared``: parts of the file are used twice, so that it does not come apart.
    """
    data = bytearray(model)
    root = u32(data, 0)
    subgraph = item(data, vector(data, root, _SUBGRAPHS), 0)
    for edge, tensors in ((_INPUTS, inputs), (_OUTPUTS, outputs)):
        struct.pack_into(f"<I{len(tensors)}i", data, vector(data, subgraph, edge), len(tensors), *tensors)
    # The vector begins where its count is: of those before `first`, the last one's place takes the count.
    struct.pack_into("<I", data, vector(data, subgraph, _OPERATORS) + 4 * first, last - first + 1)
    at = field(data, subgraph, _OPERATORS)
    struct.pack_into("<I", data, at, u32(data, at) + 4 * first)
    signatures = field(data, root, _SIGNATURES)
    if signatures:  # they name the old edges
        struct.pack_into("<I", data, follow(data, signatures), 0)
    _check(bytes(data), graph, first, last, tuple(inputs), tuple(outputs))
    return bytes(data)


def _check(
    data: bytes, graph: Graph, first: int, last: int, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    wanted = _content(replace(graph, ops=graph.ops[first : last + 1], inputs=inputs, outputs=outputs))
    try:
        apart = _content(check_model(data, where=f"operators {first} to {last}")) == wanted
    except BundleError:
        apart = False
    if not apart:
        raise ModelError(
            f"expected operators {first} to {last} with inputs {inputs} and outputs {outputs}, got another model: "
            "this file shares its tables and does not come apart",
            code="trim-shared",
        )


def _content(graph: Graph) -> tuple[object, ...]:
    """All that it computes by, weights too: in a forged file what was written to may lie inside them."""
    ops = [(op.name, op.inputs, op.outputs, op.options) for op in graph.ops]
    return graph.inputs, graph.outputs, ops, [_values(tensor) for tensor in graph.tensors]


def _values(tensor: Tensor) -> tuple[object, ...]:
    steps = tensor.quantization
    return (
        (tensor.name, tensor.shape, tensor.dtype, tensor.signature),
        None if tensor.data is None else tensor.data.tobytes(),
        None if steps is None else (steps.scale.tobytes(), steps.zero_point.tobytes(), steps.axis),
    )

"""A .tflite with fewer operators, in place: vectors of a flatbuffer are only made shorter: nothing moves, no schema is needed.

Two use it: the profile, which times a model cut after each operator, and the runtime (``at_pixels``), which does at the edge of a
network in one pass over the pixels what the file asks an operator, or a second pass, to do.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Sequence

import numpy as np

from edge_derm.bundle.manifest import Input
from edge_derm.bundle.structure import check_model
from edge_derm.errors import BundleError, ModelError
from firmware_bridge.graph import Graph, Tensor

_SUBGRAPHS, _BUFFERS, _SIGNATURES = 2, 4, 7  # fields of table Model in TFLite's schema.fbs
_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS = 0, 1, 2, 3  # of table SubGraph
_BUFFER, _DATA = 2, 0  # of tables Tensor and Buffer
_TOP_BIT = 128


def trim(
    model: bytes, graph: Graph, first: int, last: int, *, inputs: Sequence[int], outputs: Sequence[int]
) -> bytes:
    """Operators ``first`` to ``last`` of ``model``, with these tensors as inputs and outputs (no more of them than before).

    The result is read back before native code may see it.

    Raises:
        ModelError: ``trim-shared``: parts of the file are used twice, so that it does not come apart.
    """
    data = bytearray(model)
    root = _u32(data, 0)
    subgraph = _item(data, _vector(data, root, _SUBGRAPHS), 0)
    for field, tensors in ((_INPUTS, inputs), (_OUTPUTS, outputs)):
        struct.pack_into(f"<I{len(tensors)}i", data, _vector(data, subgraph, field), len(tensors), *tensors)
    # The vector begins where its count is: of those before `first`, the last one's place takes the count.
    struct.pack_into("<I", data, _vector(data, subgraph, _OPERATORS) + 4 * first, last - first + 1)
    at = _field(data, subgraph, _OPERATORS)
    struct.pack_into("<I", data, at, _u32(data, at) + 4 * first)
    signatures = _field(data, root, _SIGNATURES)
    if signatures:  # they name the old edges
        struct.pack_into("<I", data, _follow(data, signatures), 0)
    _check(bytes(data), graph, first, last, tuple(inputs), tuple(outputs))
    return bytes(data)


def at_pixels(model: bytes, shape: Input) -> tuple[bytes, Input]:
    """The model that a runtime loads, and how its input is normalised: the same scores to the bit, written with fewer passes.

    Args:
        model: a .tflite that passed ``check_model``. shape: how the bundle says its input is normalised.
    """
    if shape.dtype == "float32":
        return without_division(model, shape)
    return without_sign_flip(model), shape


def without_division(model: bytes, shape: Input) -> tuple[bytes, Input]:
    """``model`` on pixel − 128 where it was on (pixel − 128) / 2ⁿ: the first convolution's weights are divided instead.

    A power of two moves no bit of any product or sum. The input is four times the pixels' bytes and not in the caches: it is gone
    over once less. Any other model, or normalisation, comes back as it is.
    """
    (std, *others), mean = shape.std, set(shape.mean)
    if set(others) - {std} or mean != {128.0} or std <= 0 or math.frexp(std)[0] != 0.5 or std == 1:
        return model, shape
    graph = check_model(model)
    kernel = _first_kernel(graph)
    start = 0 if kernel is None else _where(model, kernel.index)
    if not start or kernel is None or kernel.data is None:
        return model, shape
    wanted = (kernel.data / np.float32(std)).astype("<f4")
    if not np.array_equal(wanted * np.float32(std), kernel.data):  # too near to zero to be divided
        return model, shape
    changed = model[:start] + wanted.tobytes() + model[start + wanted.nbytes :]
    expected = replace(kernel, data=wanted)
    if not _alike(replace(graph, tensors=_with(graph.tensors, expected)), check_model(changed)):
        return model, shape  # other parts of the file lie in the same bytes
    return changed, replace(shape, std=(1.0,))


def without_sign_flip(model: bytes) -> bytes:
    """``model`` with an int8 input where a first QUANTIZE only turned uint8 pixels into int8 (stored − 128, the same scale).

    The values behind the edge are the same to the bit. LiteRT takes 40 to 50 µs for that operator on 128 × 128 pixels, a sixth of a
    small network; whoever writes the pixels flips a bit in two. Any other model comes back as it is.

    Args:
        model: a .tflite that passed ``check_model``.
    """
    graph = check_model(model)
    if not _only_flips(graph):
        return model
    try:
        return trim(model, graph, 1, len(graph.ops) - 1, inputs=graph.ops[0].outputs, outputs=graph.outputs)
    except ModelError:
        return model


def _only_flips(graph: Graph) -> bool:
    if len(graph.inputs) != 1 or len(graph.ops) < 2 or graph.ops[0].name != "QUANTIZE":
        return False
    edge, inner = graph.tensor(graph.inputs[0]), graph.tensor(graph.ops[0].outputs[0])
    read_again = any(edge.index in op.inputs for op in graph.ops[1:])
    if (
        read_again
        or {edge.index, inner.index} & set(graph.outputs)
        or (edge.dtype, inner.dtype) != ("uint8", "int8")
    ):
        return False
    outer, own = edge.quantization, inner.quantization
    if outer is None or own is None or not len(outer.scale) == len(own.scale) == 1:
        return False
    return bool(outer.scale[0] == own.scale[0] and outer.zero_point[0] - own.zero_point[0] == _TOP_BIT)


def _first_kernel(graph: Graph) -> Tensor | None:
    """The weights of the one convolution that reads the input, if they are real numbers that nothing else reads."""
    if len(graph.inputs) != 1 or not graph.ops or graph.inputs[0] in graph.outputs:
        return None
    readers = [op for op in graph.ops if graph.inputs[0] in op.inputs]
    if len(readers) != 1 or readers[0].name not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return None
    pixels, kernel = (graph.tensor(index) for index in readers[0].inputs[:2])
    alone = sum(kernel.index in op.inputs for op in graph.ops) == 1 and kernel.index not in graph.outputs
    floats = pixels.dtype == kernel.dtype == "float32" and kernel.data is not None
    return kernel if alone and floats and pixels.index == graph.inputs[0] else None


def _where(model: bytes, tensor: int) -> int:
    """Where the values of a tensor begin in the file; 0: nowhere, or another tensor or another subgraph may read them."""
    data = bytearray(model)
    root = _u32(data, 0)
    subgraphs = _vector(data, root, _SUBGRAPHS)
    if _u32(data, subgraphs) != 1:
        return 0
    tensors = _vector(data, _item(data, subgraphs, 0), _TENSORS)
    fields = [_field(data, _item(data, tensors, i), _BUFFER) for i in range(_u32(data, tensors))]
    buffers = [_u32(data, at) if at else 0 for at in fields]
    if buffers.count(buffers[tensor]) != 1:
        return 0
    buffer = _item(data, _vector(data, root, _BUFFERS), buffers[tensor])
    return _vector(data, buffer, _DATA) + 4 if _field(data, buffer, _DATA) else 0


def _with(tensors: Sequence[Tensor], one: Tensor) -> tuple[Tensor, ...]:
    return tuple(one if tensor.index == one.index else tensor for tensor in tensors)


def _alike(one: Graph, other: Graph) -> bool:
    """Whether two graphs hold the same, values included."""

    def plain(graph: Graph) -> Graph:
        return replace(graph, tensors=tuple(replace(t, data=None, quantization=None) for t in graph.tensors))

    def values(tensor: Tensor) -> list[bytes]:
        steps = tensor.quantization
        arrays = [tensor.data] if steps is None else [tensor.data, steps.scale, steps.zero_point]
        return [b"" if array is None else np.asarray(array).tobytes() for array in arrays]

    pairs = zip(one.tensors, other.tensors)
    return plain(one) == plain(other) and all(values(a) == values(b) for a, b in pairs)


def _check(
    data: bytes, graph: Graph, first: int, last: int, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    wanted = [(op.name, op.inputs, op.outputs) for op in graph.ops[first : last + 1]]
    try:
        made = check_model(data, where=f"operators {first} to {last}")
        apart = [(op.name, op.inputs, op.outputs) for op in made.ops] == wanted
        apart = apart and (made.inputs, made.outputs) == (inputs, outputs)
    except BundleError:
        apart = False
    if not apart:
        raise ModelError(
            f"expected operators {first} to {last} with inputs {inputs} and outputs {outputs}, got another model: "
            "this file shares its tables and does not come apart",
            code="trim-shared",
        )


def _item(data: bytearray, vector: int, number: int) -> int:
    """Where a table stands that a vector of tables holds."""
    return _follow(data, vector + 4 + 4 * number)


def _vector(data: bytearray, table: int, number: int) -> int:
    """Where the vector of a table's field starts: its length, then its items."""
    return _follow(data, _field(data, table, number))


def _field(data: bytearray, table: int, number: int) -> int:
    """Where a field of a table stands; 0: it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    slot = 4 + 2 * number
    if slot >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + slot)[0]
    return table + offset if offset else 0


def _follow(data: bytearray, at: int) -> int:
    return at + _u32(data, at)


def _u32(data: bytearray, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])

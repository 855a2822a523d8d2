"""The check of an ONNX part before native code sees it: well-formed protobuf, one float image in, scores out, no outside files.

Only what the check needs is read, field numbers as in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (IR 3 and
later): ModelProto.graph 7; GraphProto.node 1, initializer 5, input 11, output 12; TensorProto.external_data 13,
data_location 14; ValueInfoProto.name 1, type 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from edge_derm.errors import BundleError

ROLE = "onnx"
NAME = "model.onnx"
FLOAT = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class OnnxEdge:
    """An input or output: name and shape; the element type is float32."""

    name: str
    shape: tuple[int, ...]


def check_onnx(data: bytes) -> tuple[OnnxEdge, OnnxEdge]:
    """The model's input [1, S, S, 3] and its output [1, C].

    Raises:
        BundleError: ``onnx-malformed`` (not protobuf, or no graph), ``onnx-external`` (weights in another file: a bundle
            holds all it needs), ``onnx-interface`` (not one float32 image in and one row of scores out).
    """
    graphs = [value for number, value in _fields(data) if number == 7 and isinstance(value, memoryview)]
    if len(graphs) != 1:
        raise _refuse(f"one graph, got {len(graphs)}", "onnx-malformed")
    edges: dict[int, list[OnnxEdge]] = {11: [], 12: []}
    constants = set()
    for number, value in _fields(graphs[0]):
        if not isinstance(value, memoryview):
            continue
        if number in edges:
            edges[number].append(_edge(value))
        elif number == 5:
            constants.add(_initializer(value))
    given = [edge for edge in edges[11] if edge.name not in constants]
    made = edges[12]
    if len(given) != 1 or len(made) != 1:
        raise _refuse(f"one input and one output, got {len(given)} and {len(made)}", "onnx-interface")
    shape, scores = given[0].shape, made[0].shape
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 3 or len(scores) != 2:
        raise _refuse(
            f"input [1, S, S, 3] and output [1, C], got {list(shape)} and {list(scores)}", "onnx-interface"
        )
    return given[0], made[0]


def _edge(data: memoryview) -> OnnxEdge:
    """ValueInfoProto → name and shape; TypeProto.tensor_type 1: elem_type 1, shape 2: dim 1: dim_value 1."""
    name = _text(_first(data, 1))
    tensor = _first(_first(data, 2), 1)
    kind, sizes = None, []
    for number, value in _fields(tensor):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, memoryview):
            dims = [dim for n, dim in _fields(value) if n == 1 and isinstance(dim, memoryview)]
            sizes = [next((v for n, v in _fields(dim) if n == 1 and isinstance(v, int)), 0) for dim in dims]
    if kind != FLOAT or not all(0 < size < 2**16 for size in sizes):
        raise _refuse(
            f"{name}: float32 of a fixed shape, got element type {kind}, sizes {sizes}", "onnx-interface"
        )
    return OnnxEdge(name, tuple(sizes))


def _initializer(data: memoryview) -> str:
    """TensorProto → its name (8); one whose bytes are elsewhere is refused."""
    name = ""
    for number, value in _fields(data):
        if number == 13 or (number == 14 and value != 0):
            raise _refuse("all weights inside the file, got a reference to another one", "onnx-external")
        if number == 8:
            name = _text(value)
    return name


def _first(data: memoryview, wanted: int) -> memoryview:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            return value
    raise _refuse(f"field {wanted} of a graph's input or output, got none", "onnx-malformed")


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of one message; the bytes of embedded messages are not copied."""
    view, at = memoryview(data), 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            length, at = _varint(view, at)
        if length is None or at + length > len(view):
            raise _refuse(f"well-formed protobuf, got a broken field at byte {at}", "onnx-malformed")
        yield key >> 3, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(view):
            break
        byte = view[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise _refuse(f"well-formed protobuf, got a broken number at byte {at}", "onnx-malformed")


def _text(value: int | memoryview) -> str:
    try:
        return bytes(value).decode("utf-8") if isinstance(value, memoryview) else ""
    except UnicodeDecodeError:
        raise _refuse("names in UTF-8, got other bytes", "onnx-malformed") from None


def _refuse(expected: str, code: str) -> BundleError:
    return BundleError(f"{NAME}: expected {expected}: export it again with --recipe onnx", code=code)

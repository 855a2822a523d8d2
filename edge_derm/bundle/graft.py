"""Add to a .tflite without touching one byte of it: a metadata entry, or an input of pixels as they are stored.

The new objects stand before the old file (``bundle.tables``). Field numbers are those of TFLite's schema.fbs.
"""

from __future__ import annotations

import struct
from typing import Mapping

from edge_derm.bundle.tables import (
    Array,
    Old,
    Part,
    Table,
    Vector,
    field,
    follow,
    members,
    newest,
    put_before,
    references,
    u32,
)
from edge_derm.errors import BundleError

_VERSION, _CODES, _SUBGRAPHS, _BUFFERS, _METADATA, _SIGNATURES, _MODEL = 0, 1, 2, 4, 6, 7, 8  # table Model
_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS, _NAME, _DEBUG = 0, 1, 2, 3, 4, 5  # table SubGraph
_UINT8, _DEQUANTIZE = 3, 6  # enums TensorType, BuiltinOperator


def add_metadata(model: bytes, name: str, data: bytes) -> bytes:
    """``model`` with the metadata entry ``name`` holding ``data``; an entry of that name is replaced.

    Args:
        model: a .tflite that passed the structural check.

    Raises:
        BundleError: ``graft-model``: weights stored outside the tables, or fields this code does not know.
    """
    fields = _root(model)
    buffers, entries = _members(model, fields, _BUFFERS), _members(model, fields, _METADATA)
    kept = [entry for entry in entries if _entry_name(model, entry.at) != name.encode()]
    entry = Table({0: _text(name), 1: len(buffers)}, 2)
    buffer = Table({0: Array(len(data), data, alignment=16)}, 1)
    return _with(model, fields, {_METADATA: Vector([entry, *kept]), _BUFFERS: Vector([*buffers, buffer])})


def add_dequantize(model: bytes, scale: float, zero_point: int) -> bytes:
    """``model`` with a uint8 input, whose operator DEQUANTIZE makes the one it had: (stored − zero_point) · scale.

    Signatures, which name the old input, are left off, and what a debugger reads of the subgraph.

    Args:
        model: a .tflite with one float32 input that passed the structural check.

    Raises:
        BundleError: ``graft-model``: as ``add_metadata``.
    """
    fields = _root(model)
    fields.pop(_SIGNATURES, None)
    codes, graphs = _members(model, fields, _CODES), _members(model, fields, _SUBGRAPHS)
    _check_known(model, graphs[0].at, _DEBUG)
    main = references(model, graphs[0].at, (_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS, _NAME))
    tensors, operators = _members(model, main, _TENSORS), _members(model, main, _OPERATORS)
    edge = u32(model, main[_INPUTS].at + 4)
    steps = {2: Array(1, struct.pack("<f", scale)), 3: Array(1, struct.pack("<q", zero_point), alignment=8)}
    shape = Old(follow(model, field(model, tensors[edge].at, 0)))
    pixels = Table({0: shape, 1: _UINT8, 2: 0, 3: _text("pixels"), 4: Table(steps, 4)}, 5)
    operator = Table({0: len(codes), 1: _indices(len(tensors)), 2: _indices(edge)}, 3)
    first: dict[int, Part | int] = {
        **main,
        _TENSORS: Vector([*tensors, pixels]),
        _INPUTS: _indices(len(tensors)),
        _OPERATORS: Vector([operator, *operators]),
    }
    changed: dict[int, Part] = {
        _CODES: Vector([*codes, Table({0: _DEQUANTIZE, 2: 1, 3: _DEQUANTIZE}, 4)]),
        _SUBGRAPHS: Vector([Table(first, _DEBUG), *graphs[1:]]),
    }
    return _with(model, fields, changed)


def _root(model: bytes) -> dict[int, Part | int]:
    """The fields of the file's root, as a new root may have them."""
    at = u32(model, 0)
    version = field(model, at, _VERSION)
    fields: dict[int, Part | int] = {
        _VERSION: u32(model, version) if version else 0,
        **references(model, at, range(1, _MODEL)),
    }
    _check_known(model, at, _MODEL - 1)
    # Buffer.offset (field 1) counts from the start of the file: weights kept that way would move with the new head.
    for buffer in _members(model, fields, _BUFFERS):
        place = field(model, buffer.at, 1)
        if place and struct.unpack_from("<Q", model, place)[0] > 1:
            raise BundleError(
                "model.tflite: keeps weights outside its tables (a file made for > 2 GB), where nothing can be "
                "added: convert it without that option",
                code="graft-model",
            )
    return fields


def _check_known(model: bytes, table: int, last: int) -> None:
    """A table is written anew only where all that it holds is known: fields to number ``last``."""
    if newest(model, table) > last:
        raise BundleError(
            "model.tflite: has fields newer than this package knows: install a newer edge-derm, or keep the "
            "file as it is",
            code="graft-model",
        )


def _with(model: bytes, fields: dict[int, Part | int], changed: dict[int, Part]) -> bytes:
    rest = {number: value for number, value in fields.items() if number not in changed}
    return put_before(model, Table({**changed, **rest}, _MODEL))


def _members(model: bytes, fields: Mapping[int, Part | int], number: int) -> list[Old]:
    part = fields.get(number)
    return members(model, part.at) if isinstance(part, Old) else []


def _entry_name(model: bytes, entry: int) -> bytes:
    place = field(model, entry, 0)
    if not place:
        return b""
    start = follow(model, place)
    return model[start + 4 : start + 4 + u32(model, start)]


def _text(text: str) -> Array:
    return Array(len(text.encode()), text.encode() + b"\0")


def _indices(*tensors: int) -> Array:
    return Array(len(tensors), struct.pack(f"<{len(tensors)}i", *tensors))

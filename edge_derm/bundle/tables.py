"""Tables of a flatbuffer without its schema: where they stand, and new ones put before them.

References point only forward, so nothing that refers to an old object can be appended; a new root is put *before* the old file
instead. The old bytes follow unchanged on a 64-byte boundary, which keeps the alignment of every weight. Unlike a rewrite through
generated classes this needs no schema of operators, and cannot lose what a newer schema added.

Positions follow https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Mapping, Sequence, Union

_ALIGNMENT = 64
_Bytes = Union[bytes, bytearray]


@dataclass(frozen=True)
class Old:
    """An object of the old file, by where it stands there."""

    at: int


@dataclass(frozen=True)
class Array:
    """A vector of numbers, or a text (its closing zero in ``data``, not in ``count``)."""

    count: int
    data: bytes
    alignment: int = 4


@dataclass(frozen=True)
class Vector:
    """A vector of references."""

    parts: Sequence[Part]


@dataclass(frozen=True)
class Table:
    """``fields`` by number, each a reference or a number of at most four bytes; ``width`` of them are known."""

    fields: Mapping[int, Part | int]
    width: int


Part = Union[Old, Array, Vector, Table]


def put_before(old: bytes, root: Table) -> bytes:
    """A file of ``root`` and what it refers to, then ``old``."""
    head = bytearray(struct.pack("<I4s", 0, b"TFL3"))
    waiting: list[tuple[int, int]] = []
    struct.pack_into("<I", head, 0, _put(head, root, waiting))
    _pad(head, _ALIGNMENT)
    for place, at in waiting:
        struct.pack_into("<I", head, place, len(head) + at - place)
    return bytes(head) + old


def _put(head: bytearray, part: Part, waiting: list[tuple[int, int]]) -> int:
    """Where ``part`` stands now; ``waiting`` collects references to old objects, which have no place before the head ends."""
    if isinstance(part, Array):
        _pad(head, part.alignment, ahead=4)
        at = len(head)
        head += struct.pack("<I", part.count) + part.data
    elif isinstance(part, Vector):
        _pad(head, 4)
        at = len(head)
        head += struct.pack("<I", len(part.parts)) + bytes(4 * len(part.parts))
        for number, member in enumerate(part.parts):
            _refer(head, at + 4 + 4 * number, member, waiting)
    elif isinstance(part, Table):
        slots = [4 + 4 * number if number in part.fields else 0 for number in range(part.width)]
        _pad(head, 4)
        start = len(head)
        head += struct.pack(f"<{2 + part.width}H", 4 + 2 * part.width, 4 + 4 * part.width, *slots)
        _pad(head, 4)
        at = len(head)
        head += struct.pack("<i", at - start) + bytes(4 * part.width)
        for number, value in part.fields.items():
            if isinstance(value, int):
                struct.pack_into("<I", head, at + slots[number], value)
            else:
                _refer(head, at + slots[number], value, waiting)
    else:
        raise TypeError("a file has a new root")
    return at


def _refer(head: bytearray, place: int, part: Part, waiting: list[tuple[int, int]]) -> None:
    if isinstance(part, Old):
        waiting.append((place, part.at))
    else:
        target = _put(head, part, waiting)
        struct.pack_into("<I", head, place, target - place)


def _pad(head: bytearray, alignment: int, *, ahead: int = 0) -> None:
    head += bytes(-(len(head) + ahead) % alignment)


def references(data: _Bytes, table: int, numbers: Sequence[int]) -> dict[int, Old]:
    """What those fields of a table refer to that it has, by number."""
    places = {number: field(data, table, number) for number in numbers}
    return {number: Old(follow(data, place)) for number, place in places.items() if place}


def newest(data: _Bytes, table: int) -> int:
    """The highest number of a field that a table has; -1: none."""
    count = (_u16(data, table - struct.unpack_from("<i", data, table)[0]) - 4) // 2
    return max((number for number in range(count) if field(data, table, number)), default=-1)


def members(data: _Bytes, at: int) -> list[Old]:
    """The members of a vector of references."""
    return [Old(item(data, at, number)) for number in range(u32(data, at))]


def item(data: _Bytes, at: int, number: int) -> int:
    """Where one member of a vector of references stands."""
    return follow(data, at + 4 + 4 * number)


def field(data: _Bytes, table: int, number: int) -> int:
    """Where a field of a table stands; 0: it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    slot = 4 + 2 * number
    offset = _u16(data, vtable + slot) if slot < _u16(data, vtable) else 0
    return table + offset if offset else 0


def vector(data: _Bytes, table: int, number: int) -> int:
    """Where the vector of a table's field starts: its length, then its items; the field must be there."""
    return follow(data, field(data, table, number))


def follow(data: _Bytes, at: int) -> int:
    """What the reference at a place refers to."""
    return at + u32(data, at)


def u32(data: _Bytes, at: int) -> int:
    """The unsigned number of four bytes at a place."""
    return int(struct.unpack_from("<I", data, at)[0])


def _u16(data: _Bytes, at: int) -> int:
    return int(struct.unpack_from("<H", data, at)[0])

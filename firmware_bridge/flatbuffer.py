"""Bounds-checked reading of FlatBuffers (flatbuffers.dev/internals), for bytes that nobody vouches for.

Every offset, length and alignment is checked before it is followed, as the C++ verifier does, so a file
accepted here is also safe to walk for a native reader. Vectors come back as views of the file. Many offsets
may name one place: the bytes walked are counted, and a file that is walked more often than its size allows
is refused, so that time and memory stay proportional to the file. Which slot holds what is said by a
``Layout`` (see ``schema``).

Codes of the FormatErrors raised here: ``truncated``, ``wrong-magic``, ``offset-out-of-range``,
``misaligned``, ``vtable-malformed``, ``table-too-long``, ``field-outside-table``, ``vector-too-long``,
``string-unterminated``, ``string-not-utf8``, ``unknown-option-value``, ``too-many-entries``,
``too-much-sharing``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Mapping

import numpy as np

from firmware_bridge.graph import FormatError

MAX_ENTRIES = 65_536  # tables in one vector; the largest public models have a few thousand tensors
MAX_STRUCTURE_BYTES = 32 << 20  # all tables, names and parameters of one file, without the weights
TABLE_COST = 128  # counted for each table on top of its bytes: what it costs in Python, not in the file
DAMAGED = "the file is damaged, fetch it again"

_SCALARS = {
    kind: struct.Struct(f"<{letter}")
    for kind, letter in zip("bool i8 u8 i16 u16 i32 u32 i64 u64 f32 f64".split(), "BbBhHiIqQfd")
}
_ITEMS: dict[str, np.dtype] = {
    "u8": np.dtype("u1"),
    "i32": np.dtype("<i4"),
    "i64": np.dtype("<i8"),
    "f32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class Enum:
    """An enumeration stored in one scalar; ``names[value]`` is what a reader gets."""

    name: str
    scalar: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """One slot of a table: a scalar (``i32``), an Enum, a ``string``, a ``table`` or a vector (``[i32]``)."""

    slot: int
    kind: str
    default: Any
    enum: Enum | None = None


Layout = Mapping[str, Field]


class Source:
    """The bytes of one file and the count of how much of them has been walked."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.view = memoryview(data).toreadonly().cast("B")
        self.size = len(self.view)
        self._left = min(8 * self.size + 16_384, MAX_STRUCTURE_BYTES)

    def charge(self, count: int, where: str) -> None:
        """Count walked bytes; FormatError ``too-much-sharing`` once the file's allowance is spent."""
        self._left -= count
        if self._left < 0:
            raise malformed(
                "too-much-sharing",
                where,
                expected="each part of the file to be used about once",
                got=f"offsets that walk its {self.size} bytes again and again",
                then="the file is crafted or damaged, fetch it again",
            )

    def root(self, identifier: bytes) -> Table:
        """Return the root table; FormatError ``truncated`` or ``wrong-magic`` if the header is not there."""
        if self.size < 12:
            raise malformed(
                "truncated",
                "the file",
                expected="a .tflite of at least 12 bytes",
                got=self.size,
                then="the file is truncated, fetch it again",
            )
        magic = bytes(self.view[4:8])
        if magic != identifier:
            raise malformed(
                "wrong-magic",
                "the file",
                expected=f"the file identifier {identifier!r} at byte 4",
                got=f"{magic!r}",
                then="this is not a .tflite file",
            )
        return self.table_at(self.follow(0, "the root"), "the root")

    def follow(self, at: int, where: str) -> int:
        """Return where the offset stored at ``at`` points; the next four bytes are inside the file."""
        (offset,) = _SCALARS["u32"].unpack_from(self.view, at)
        target = at + offset
        if offset == 0 or target + 4 > self.size:
            raise malformed(
                "offset-out-of-range",
                where,
                expected=f"an offset into the file of {self.size} bytes",
                got=f"{offset} at byte {at}",
            )
        _require_alignment(target, 4, where)
        return target

    def table_at(self, at: int, where: str) -> Table:
        """Return the table at ``at`` (in the file, aligned) after checking its vtable."""
        (back,) = _SCALARS["i32"].unpack_from(self.view, at)
        vtable = at - back
        if vtable < 0 or vtable + 4 > self.size:
            raise malformed(
                "vtable-malformed",
                where,
                expected=f"a vtable inside the file of {self.size} bytes",
                got=f"byte {vtable}",
            )
        _require_alignment(vtable, 2, where)
        vtable_size, table_size = struct.unpack_from("<HH", self.view, vtable)
        if vtable_size < 4 or vtable_size % 2 or vtable + vtable_size > self.size:
            raise malformed(
                "vtable-malformed",
                where,
                expected="a vtable of an even length of at least 4 that fits",
                got=f"{vtable_size} at byte {vtable}",
            )
        if table_size < 4 or at + table_size > self.size:
            raise malformed(
                "table-too-long",
                where,
                expected=f"a table of 4 to {self.size - at} bytes",
                got=table_size,
            )
        self.charge(table_size + TABLE_COST, where)
        return Table(self, at, vtable, vtable_size, table_size, where)

    def span(self, at: int, item: int, where: str) -> tuple[int, int]:
        """Return (first byte, count) of the vector at ``at`` whose items take ``item`` bytes each."""
        (count,) = _SCALARS["u32"].unpack_from(self.view, at)
        if at + 4 + count * item > self.size:
            raise malformed(
                "vector-too-long",
                where,
                expected=f"a vector that fits into the {self.size - at - 4} bytes left",
                got=f"{count} items of {item} bytes",
            )
        if count:
            _require_alignment(at + 4, item, where)
        return at + 4, count


class Table:
    """One table; ``get`` reads a field by its layout entry, ``where`` names it in messages."""

    __slots__ = ("source", "where", "_at", "_vtable", "_vtable_size", "_size")

    def __init__(self, source: Source, at: int, vtable: int, vtable_size: int, size: int, where: str) -> None:
        self.source, self.where = source, where
        self._at, self._vtable, self._vtable_size, self._size = at, vtable, vtable_size, size

    def get(self, layout: Layout, name: str) -> Any:
        """Return the field's value: int, float, bool, enumeration name, str, Table, view or its default.

        A vector of scalars is a read-only NumPy view ([n], little-endian), of tables a list of Table; an
        absent vector is empty, an absent string or table None.
        """
        field = layout[name]
        if field.enum is not None:
            return self._enum(field, name)
        if field.kind in _SCALARS:
            return self._scalar(field.slot, field.kind, field.default)
        at = self._place(field.slot, 4)
        if field.kind == "[table]":
            return [] if at is None else self._tables(at, name)
        if field.kind.startswith("["):
            return self._vector(at, field.kind[1:-1], name)
        if at is None:
            return None
        where = f"{self.where}, {name}"
        target = self.source.follow(at, where)
        return self.source.table_at(target, where) if field.kind == "table" else self._string(target, where)

    def integers(self, layout: Layout, name: str) -> tuple[int, ...]:
        """Return an integer vector as Python ints and count its bytes as walked."""
        return tuple(self.array(layout, name).tolist())

    def array(self, layout: Layout, name: str) -> np.ndarray:
        """Return a vector of scalars as a view and count its bytes as walked."""
        values = self.get(layout, name)
        self.source.charge(values.nbytes, self.where)
        return values

    def _place(self, slot: int, size: int) -> int | None:
        entry = 4 + 2 * slot
        if entry >= self._vtable_size:
            return None
        (offset,) = _SCALARS["u16"].unpack_from(self.source.view, self._vtable + entry)
        if offset == 0:
            return None
        if offset < 4 or offset + size > self._size:
            raise malformed(
                "field-outside-table",
                self.where,
                expected=f"field {slot} inside its table of {self._size} bytes",
                got=f"{size} bytes at {offset}",
            )
        return self._at + offset

    def _scalar(self, slot: int, kind: str, default: Any) -> Any:
        scalar = _SCALARS[kind]
        at = self._place(slot, scalar.size)
        if at is None:
            return default
        _require_alignment(at, scalar.size, self.where)
        (value,) = scalar.unpack_from(self.source.view, at)
        return bool(value) if kind == "bool" else value

    def _enum(self, field: Field, name: str) -> str:
        assert field.enum is not None
        value = self._scalar(field.slot, field.enum.scalar, field.default)
        if not 0 <= value < len(field.enum.names):
            raise malformed(
                "unknown-type" if field.enum.name == "TensorType" else "unknown-option-value",
                self.where,
                expected=f"{name} to be a {field.enum.name} (0 to {len(field.enum.names) - 1})",
                got=value,
                then="the file is damaged or newer than this reader",
            )
        return field.enum.names[value]

    def _vector(self, at: int | None, kind: str, name: str) -> np.ndarray:
        dtype = _ITEMS[kind]
        if at is None:
            return np.empty(0, dtype)
        where = f"{self.where}, {name}"
        start, count = self.source.span(self.source.follow(at, where), dtype.itemsize, where)
        return np.frombuffer(self.source.view, dtype, count, start) if count else np.empty(0, dtype)

    def _tables(self, at: int, name: str) -> list[Table]:
        where = f"{self.where}, {name}"
        start, count = self.source.span(self.source.follow(at, where), 4, where)
        if count > MAX_ENTRIES:
            raise malformed(
                "too-many-entries",
                where,
                expected=f"at most {MAX_ENTRIES} entries",
                got=count,
                then="the file is crafted or damaged",
            )
        self.source.charge(4 * count, where)
        source, one = self.source, name.removesuffix("s").replace("_", " ")
        entry = f"{one} " if self.where == "the root" else f"{self.where}, {one} "
        return [
            source.table_at(source.follow(start + 4 * i, f"{entry}{i}"), f"{entry}{i}") for i in range(count)
        ]

    def _string(self, at: int, where: str) -> str:
        start, count = self.source.span(at, 1, where)
        end = start + count
        self.source.charge(count, where)
        if end >= self.source.size or self.source.view[end] != 0:
            raise malformed(
                "string-unterminated",
                where,
                expected="text that ends with a zero byte",
                got=f"none after {count} bytes",
            )
        try:
            return str(self.source.view[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise malformed(
                "string-not-utf8",
                where,
                expected="UTF-8 text",
                got=f"byte {error.object[error.start]:#04x} at {start + error.start}",
            ) from None


def malformed(code: str, where: str, *, expected: object, got: object, then: str = DAMAGED) -> FormatError:
    """Return the FormatError for one malformation, its message in the house's order."""
    return FormatError(f"{where}: expected {expected}, got {got}: {then}", code=code)


def _require_alignment(at: int, size: int, where: str) -> None:
    if at % size:
        raise malformed(
            "misaligned",
            where,
            expected=f"a multiple of {size}",
            got=f"byte {at}",
            then="a native reader may trap on it; write the file again with a FlatBuffers builder",
        )

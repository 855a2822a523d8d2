"""Add a metadata entry to a .tflite without touching one byte of it.

Flatbuffer references point only forward, so a new root cannot be appended; it is put *before* the old file
instead: a new ``Model`` table whose fields refer to the old objects, now further back, plus the new
``Metadata`` entry and its ``Buffer``. The old bytes follow unchanged on a 64-byte boundary, which keeps the
alignment of every weight. Unlike a rewrite through generated classes this needs no schema of operators, and
cannot lose what a newer schema added.

Positions follow https://flatbuffers.dev/internals; field numbers are those of ``table Model`` in TFLite's
schema.fbs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edge_derm.errors import BundleError

_VERSION, _BUFFERS, _METADATA, _FIELDS = 0, 4, 6, 8
_ALIGNMENT = 64
_VTABLE, _ROOT, _ENTRIES = 8, 28, 64  # after the file head: vtable of 2 + 8 slots, table of 1 + 8 words


@dataclass(frozen=True)
class _Plan:
    """Positions in the new head; the old file starts at ``size``."""

    entry: int
    name: int
    buffers: int
    buffer: int
    data: int
    size: int


def add_metadata(model: bytes, name: str, data: bytes) -> bytes:
    """``model`` with the metadata entry ``name`` holding ``data``; an entry of that name is replaced.

    Args:
        model: a .tflite that passed the structural check.

    Raises:
        BundleError: ``metadata-model``: weights stored outside the tables, or fields this code does not know.
    """
    root = _u32(model, 0)
    targets = _targets(model, root)
    buffers = _vector(model, targets.get(_BUFFERS))
    entries = [at for at in _vector(model, targets.get(_METADATA)) if _entry_name(model, at) != name.encode()]
    _check_embedded(model, buffers)
    plan = _plan(len(entries) + 1, len(buffers) + 1, name, data)
    head = bytearray(plan.size)
    struct.pack_into("<I4s", head, 0, _ROOT, b"TFL3")
    _put_root(head, plan, {number: at + plan.size for number, at in targets.items()}, _version(model, root))
    _put_vector(head, _ENTRIES, [plan.entry, *(at + plan.size for at in entries)])
    _put_entry(head, plan, name, len(buffers))
    _put_vector(head, plan.buffers, [*(at + plan.size for at in buffers), plan.buffer])
    _put_buffer(head, plan, data)
    return bytes(head) + model


def _plan(entries: int, buffers: int, name: str, data: bytes) -> _Plan:
    entry = _ENTRIES + 4 + 4 * entries + 8  # its 8-byte vtable stands before it
    text = entry + 12
    vector = _up(text + 4 + len(name.encode()) + 1, 4)
    buffer = vector + 4 + 4 * buffers + 8
    start = _up(buffer + 8 + 4, 16) - 4  # the schema wants the bytes, not their count, on a multiple of 16
    return _Plan(
        entry=entry,
        name=text,
        buffers=vector,
        buffer=buffer,
        data=start,
        size=_up(start + 4 + len(data), _ALIGNMENT),
    )


def _put_root(head: bytearray, plan: _Plan, targets: dict[int, int], version: int) -> None:
    targets = {**targets, _METADATA: _ENTRIES, _BUFFERS: plan.buffers}
    slots = [4 + 4 * i if i == _VERSION or i in targets else 0 for i in range(_FIELDS)]
    struct.pack_into("<10H", head, _VTABLE, 20, 36, *slots)
    struct.pack_into("<iI", head, _ROOT, _ROOT - _VTABLE, version)
    for number, target in targets.items():
        at = _ROOT + 4 + 4 * number
        struct.pack_into("<I", head, at, target - at)


def _put_entry(head: bytearray, plan: _Plan, name: str, buffer: int) -> None:
    struct.pack_into("<4H", head, plan.entry - 8, 8, 12, 4, 8)
    struct.pack_into("<iII", head, plan.entry, 8, plan.name - plan.entry - 4, buffer)
    text = name.encode()
    struct.pack_into(f"<I{len(text)}s", head, plan.name, len(text), text)


def _put_buffer(head: bytearray, plan: _Plan, data: bytes) -> None:
    struct.pack_into("<3H", head, plan.buffer - 8, 6, 8, 4)
    struct.pack_into("<iI", head, plan.buffer, 8, plan.data - plan.buffer - 4)
    struct.pack_into(f"<I{len(data)}s", head, plan.data, len(data), data)


def _put_vector(head: bytearray, at: int, targets: list[int]) -> None:
    offsets = [target - (at + 4 + 4 * i) for i, target in enumerate(targets)]
    struct.pack_into(f"<{1 + len(offsets)}I", head, at, len(offsets), *offsets)


def _targets(model: bytes, root: int) -> dict[int, int]:
    """Absolute positions of what the root's offset fields refer to, by field number."""
    vtable = root - struct.unpack_from("<i", model, root)[0]
    count = (_u16(model, vtable) - 4) // 2
    slots = {i: _u16(model, vtable + 4 + 2 * i) for i in range(count)}
    if any(slot for number, slot in slots.items() if number >= _FIELDS):
        raise BundleError(
            "model.tflite: has fields newer than this writer of metadata knows: install a newer "
            "edge-derm, or keep the file without metadata",
            code="metadata-model",
        )
    return {i: root + slot + _u32(model, root + slot) for i, slot in slots.items() if slot and i != _VERSION}


def _version(model: bytes, root: int) -> int:
    at = _field(model, root, _VERSION)
    return _u32(model, at) if at else 0


def _check_embedded(model: bytes, buffers: list[int]) -> None:
    # Buffer.offset (field 1) counts from the start of the file: weights kept that way would move with the
    # new head.
    for buffer in buffers:
        at = _field(model, buffer, 1)
        if at and struct.unpack_from("<Q", model, at)[0] > 1:
            raise BundleError(
                "model.tflite: keeps weights outside its tables (a file made for > 2 GB), where metadata "
                "cannot be added: convert it without that option",
                code="metadata-model",
            )


def _entry_name(model: bytes, entry: int) -> bytes:
    at = _field(model, entry, 0)
    if not at:
        return b""
    start = at + _u32(model, at)
    return model[start + 4 : start + 4 + _u32(model, start)]


def _field(model: bytes, table: int, number: int) -> int:
    vtable = table - struct.unpack_from("<i", model, table)[0]
    slot = 4 + 2 * number
    value = _u16(model, vtable + slot) if slot < _u16(model, vtable) else 0
    return table + value if value else 0


def _vector(model: bytes, at: int | None) -> list[int]:
    """Absolute positions of a vector's members."""
    if at is None:
        return []
    places = range(at + 4, at + 4 + 4 * _u32(model, at), 4)
    return [place + _u32(model, place) for place in places]


def _u16(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", data, at)[0])


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _up(value: int, step: int) -> int:
    return -(-value // step) * step

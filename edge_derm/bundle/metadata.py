"""TFLite Metadata inside the .tflite: labels and normalisation that MediaPipe, Task Library and Netron read.

A ``ModelMetadata`` flatbuffer (https://github.com/google-ai-edge/mediapipe, ``metadata_schema.fbs``) goes
into the model as metadata entry ``TFLITE_METADATA``; the label file it names is appended as a plain zip
archive, so that ``unzip model.tflite`` lists it.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Sequence

import flatbuffers
from flatbuffers.table import Table

from edge_derm.bundle import graft
from edge_derm.bundle.structure import check_model
from edge_derm.errors import BundleError

ENTRY = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
_LIMIT = 4 * 1024 * 1024

# What struct, zipfile and their kin raise on hostile bytes (ValueError covers text, RuntimeError encryption).
_UNREADABLE = (struct.error, zlib.error, zipfile.BadZipFile, LookupError, ValueError, TypeError, OverflowError,
               EOFError, RuntimeError)  # fmt: skip

# Field and union numbers of metadata_schema.fbs.
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES, _NORMALIZATION, _AXIS_LABELS, _RGB = 2, 1, 1, 2, 1


@dataclass(frozen=True)
class Embedded:
    """What a .tflite says about itself: labels and normalisation (pixel − mean) / std; None: nothing."""

    labels: tuple[str, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def embed_metadata(
    tflite: bytes,
    *,
    labels: Sequence[str],
    mean: Sequence[float] = (128.0,),
    std: Sequence[float] = (128.0,),
    name: str = "edge-derm image classifier",
) -> bytes:
    """``tflite`` with labels and normalisation as standard TFLite Metadata; existing metadata is replaced.

    The computation is untouched: the old bytes are kept as they are behind a new head. A file that already
    carries exactly this is returned as it is.

    Args:
        labels: one per score, in order; each one non-empty line.
        mean, std: of (pixel − mean) / std, one value or one per channel; for a uint8 input a reader ignores
            them.

    Raises:
        BundleError: ``model-…`` (not a well-formed .tflite), ``metadata-labels``, ``graft-model``.
    """
    for label in labels:
        if not label.strip() or len(label.splitlines()) != 1:
            raise BundleError(f"label {ascii(label)}: expected one non-empty line", code="metadata-labels")
    wanted = Embedded(tuple(labels), _float32(mean), _float32(std))
    check_model(tflite)
    if _carries(tflite, wanted):
        return tflite
    bare = _without_archive(tflite)
    check_model(bare)
    grafted = graft.add_metadata(bare, ENTRY, _model_metadata(name, mean, std))
    result = _with_archive(grafted, "".join(f"{label}\n" for label in labels))
    check_model(result)
    return result


def read_metadata(tflite: bytes) -> Embedded:
    """Labels and normalisation embedded in ``tflite``; a field is None where the file does not say.

    Raises:
        BundleError: ``model-…`` (not a well-formed .tflite), ``metadata-broken`` (metadata that does not
        read).
    """
    data = check_model(tflite).metadata.get(ENTRY)
    if data is None:
        return Embedded(None, None, None)
    try:
        return _read(bytes(data), tflite)
    except _UNREADABLE as error:
        raise BundleError(
            f"model.tflite: its TFLite Metadata does not read ({type(error).__name__}): embed it again",
            code="metadata-broken",
        ) from None


def _carries(tflite: bytes, wanted: Embedded) -> bool:
    try:
        return read_metadata(tflite) == wanted
    except BundleError:
        return False


def _model_metadata(name: str, mean: Sequence[float], std: Sequence[float]) -> bytes:
    builder = flatbuffers.Builder(1024)
    subgraph = _table(
        builder,
        10,
        {
            2: _tables(builder, [_image_input(builder, mean, std)]),
            3: _tables(builder, [_scores_output(builder)]),
        },
    )
    model = _table(
        builder,
        8,
        {
            0: builder.CreateString(name),
            3: _tables(builder, [subgraph]),
            7: builder.CreateString("1.0.0"),
        },
    )
    builder.Finish(model, file_identifier=b"M001")
    return bytes(builder.Output())


def _image_input(builder: flatbuffers.Builder, mean: Sequence[float], std: Sequence[float]) -> int:
    content = _content(builder, _IMAGE_PROPERTIES, _table(builder, 2, {}, {0: _RGB}))
    options = _table(builder, 2, {0: _floats(builder, mean), 1: _floats(builder, std)})
    unit = _table(builder, 2, {1: options}, {0: _NORMALIZATION})
    ends = [[(pixel - m) / s for m, s in zip(mean, std)] for pixel in (255, 0)]
    return _table(
        builder,
        7,
        {
            0: builder.CreateString("image"),
            3: content,
            4: _tables(builder, [unit]),
            5: _table(builder, 2, {0: _floats(builder, ends[0]), 1: _floats(builder, ends[1])}),
        },
    )


def _scores_output(builder: flatbuffers.Builder) -> int:
    content = _content(builder, _FEATURE_PROPERTIES, _table(builder, 0, {}))
    file = _table(builder, 5, {0: builder.CreateString(LABELS_FILE)}, {2: _AXIS_LABELS})
    return _table(
        builder,
        7,
        {
            0: builder.CreateString("score"),
            3: content,
            5: _table(builder, 2, {0: _floats(builder, [1.0]), 1: _floats(builder, [0.0])}),
            6: _tables(builder, [file]),
        },
    )


def _content(builder: flatbuffers.Builder, kind: int, properties: int) -> int:
    return _table(builder, 3, {1: properties}, {0: kind})


def _table(
    builder: flatbuffers.Builder, size: int, offsets: dict[int, int], codes: dict[int, int] | None = None
) -> int:
    """A table of ``size`` fields from finished children (by field number) and one-byte enumerations."""
    builder.StartObject(size)
    for number, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(number, offset, 0)
    for number, code in (codes or {}).items():
        builder.PrependInt8Slot(number, code, 0)
    return int(builder.EndObject())


def _tables(builder: flatbuffers.Builder, members: Sequence[int]) -> int:
    builder.StartVector(4, len(members), 4)
    for member in reversed(members):
        builder.PrependUOffsetTRelative(member)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())


def _read(data: bytes, tflite: bytes) -> Embedded:
    root = Table(data, struct.unpack_from("<I", data)[0])
    subgraph = _members(root, 3)[0]
    pixels, scores = _members(subgraph, 2)[0], _members(subgraph, 3)[0]
    mean = std = None
    for unit in _members(pixels, 4):
        if _code(unit, 0) == _NORMALIZATION:
            options = _child(unit, 1)
            mean, std = _numbers(options, 0), _numbers(options, 1)
    names = [_text(file, 0) for file in _members(scores, 6) if _code(file, 2) == _AXIS_LABELS]
    return Embedded(_labels(tflite, names[0]) if names else None, mean, std)


def _labels(tflite: bytes, name: str) -> tuple[str, ...]:
    with zipfile.ZipFile(io.BytesIO(tflite)) as archive:
        if archive.getinfo(name).file_size > _LIMIT:
            raise ValueError("label file too large")
        return tuple(archive.read(name).decode("utf-8").splitlines())


def _without_archive(tflite: bytes) -> bytes:
    """The model without the zip archive appended to it, if there is one."""
    try:
        with zipfile.ZipFile(io.BytesIO(tflite)) as archive:
            starts = [entry.header_offset for entry in archive.infolist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return tflite
    return tflite[: min(starts)] if starts else tflite


def _with_archive(model: bytes, labels: str) -> bytes:
    stream = io.BytesIO()
    stream.write(model)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:  # readers take only stored members
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, (1980, 1, 1, 0, 0, 0)), labels.encode("utf-8"))
    return stream.getvalue()


def _place(table: Table, number: int) -> int:
    offset = table.Offset(4 + 2 * number)
    return int(table.Pos + offset) if offset else 0


def _child(table: Table, number: int) -> Table:
    at = _place(table, number)
    if not at:
        raise ValueError("field missing")
    return Table(table.Bytes, at + struct.unpack_from("<I", table.Bytes, at)[0])


def _vector(table: Table, number: int) -> tuple[int, int]:
    """(position of the first member, count), (0, 0) where absent; at most what the bytes can hold."""
    at = _place(table, number)
    if not at:
        return 0, 0
    start = at + struct.unpack_from("<I", table.Bytes, at)[0]
    count = struct.unpack_from("<I", table.Bytes, start)[0]
    if count > len(table.Bytes):
        raise ValueError("count beyond the end")
    return start + 4, count


def _members(table: Table, number: int) -> list[Table]:
    start, count = _vector(table, number)
    places = range(start, start + 4 * count, 4)
    return [Table(table.Bytes, at + struct.unpack_from("<I", table.Bytes, at)[0]) for at in places]


def _numbers(table: Table, number: int) -> tuple[float, ...]:
    start, count = _vector(table, number)
    return tuple(struct.unpack_from(f"<{count}f", table.Bytes, start))


def _text(table: Table, number: int) -> str:
    start, count = _vector(table, number)
    return bytes(table.Bytes[start : start + count]).decode("utf-8")


def _code(table: Table, number: int) -> int:
    at = _place(table, number)
    return int(table.Bytes[at]) if at else 0


def _float32(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))

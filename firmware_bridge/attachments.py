"""Files that TFLite Metadata carries beside a model: label lists in a zip appended to the FlatBuffer.

The metadata itself (FlatBuffer ``M001``, tensorflow/tflite-support metadata_schema.fbs) is a buffer of the
model and says which file labels which output. Hostile like the rest: the directory is read here, sizes are
bounded before anything is unpacked, and nothing is written to disk. FormatError codes: ``zip-malformed``,
``zip-too-large``, ``zip-unsupported``.
"""

from __future__ import annotations

import struct
import zlib
from typing import Iterator

from firmware_bridge.flatbuffer import Enum, Field, Layout, Source, Table, malformed
from firmware_bridge.graph import FormatError, Graph

MAX_FILES = 64
MAX_FILE_BYTES = 1 << 20

_END = struct.Struct("<4s4H2IH")  # end of central directory
_ENTRY = struct.Struct("<4s6H3I5H2I")  # one file in the central directory
_LOCAL = struct.Struct("<4s5H3I2H")  # header before the file's bytes

_LABELS = "TENSOR_AXIS_LABELS"
_FILE_TYPE = Enum(
    "AssociatedFileType",
    "u8",
    (
        "UNKNOWN",
        "DESCRIPTIONS",
        _LABELS,
        "VALUE_LABELS",
        "SCORE_CALIBRATION",
        "VOCABULARY",
        "SCANN_INDEX_FILE",
    ),
)
_MODEL_METADATA: Layout = {"subgraph_metadata": Field(3, "[table]", None)}
_SUBGRAPH_METADATA: Layout = {"output_tensor_metadata": Field(3, "[table]", None)}
_TENSOR_METADATA: Layout = {"associated_files": Field(6, "[table]", None)}
_ASSOCIATED_FILE: Layout = {
    "name": Field(0, "string", None),
    "type": Field(2, "u8", 0, _FILE_TYPE),
}


def read_labels(data: bytes, graph: Graph) -> tuple[str, ...] | None:
    """Return the labels of the model's first output, None if the file carries none.

    ``data`` is the whole file, ``graph`` what ``tflite.parse`` made of it. Raises FormatError when there is
    metadata that is broken or names a file that is not in the zip.
    """
    described = graph.metadata.get("TFLITE_METADATA")
    name = None if described is None else _label_file(described)
    if name is None:
        return None
    content = read_files(data).get(name)
    if content is None:
        raise _malformed(f"the label file {name[:80]!r} that the metadata names", "a zip without it")
    try:
        return tuple(content.decode("utf-8").splitlines())
    except UnicodeDecodeError:
        raise _malformed(f"UTF-8 text in {name[:80]!r}", "other bytes") from None


def read_files(data: bytes) -> dict[str, bytes]:
    """Return {name: content} of the zip behind the model, {} if there is none; FormatError if broken."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - 0xFFFF))
    if at < 0:
        return {}
    if at + _END.size > len(data):
        raise _malformed("a whole end record", "a truncated one")
    _, _, _, _, files, size, offset, _ = _END.unpack_from(data, at)
    if files > MAX_FILES:
        raise malformed(
            "zip-too-large",
            "attached files",
            expected=f"at most {MAX_FILES}",
            got=files,
            then="the file is crafted",
        )
    start = at - size
    shift = start - offset  # offsets count from the start of the zip or of the file, as the writer chose
    if start < 0 or shift < 0:
        raise _malformed("a directory inside the file", f"{size} bytes at {offset}, before byte {at}")
    return dict(_unpack_all(data, start, at, files, shift))


def _label_file(metadata: bytes) -> str | None:
    root = Source(metadata).root(b"M001")
    for subgraph in root.get(_MODEL_METADATA, "subgraph_metadata")[:1]:
        for output in subgraph.get(_SUBGRAPH_METADATA, "output_tensor_metadata")[:1]:
            return _first_labels(output)
    return None


def _first_labels(output: Table) -> str | None:
    found = None
    for file in output.get(_TENSOR_METADATA, "associated_files"):
        if file.get(_ASSOCIATED_FILE, "type") == _LABELS:
            found = found or file.get(_ASSOCIATED_FILE, "name")
    return found


def _unpack_all(data: bytes, at: int, end: int, files: int, shift: int) -> Iterator[tuple[str, bytes]]:
    for _ in range(files):
        if at + _ENTRY.size > end or data[at : at + 4] != b"PK\x01\x02":
            raise _malformed("a directory entry", f"other bytes at {at}")
        fields = _ENTRY.unpack_from(data, at)
        name_size, extra_size, comment_size = fields[10:13]
        name = data[at + _ENTRY.size : at + _ENTRY.size + name_size].decode("utf-8", "replace")
        yield name, _unpack(data, name, fields[16] + shift, fields)
        at += _ENTRY.size + name_size + extra_size + comment_size
    if at != end:
        raise _malformed("a directory that ends at its end record", f"byte {at}, not {end}")


def _unpack(data: bytes, name: str, at: int, fields: tuple) -> bytes:
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    if flags & 1 or method not in (0, 8):
        raise malformed(
            "zip-unsupported",
            f"attached file {name[:80]!r}",
            expected="stored or deflated bytes",
            got=f"method {method}, flags {flags:#x}",
            then="attach it without encryption",
        )
    if size > MAX_FILE_BYTES:
        raise malformed(
            "zip-too-large",
            f"attached file {name[:80]!r}",
            expected=f"at most {MAX_FILE_BYTES} bytes",
            got=size,
            then="the file is crafted",
        )
    if at < 0 or at + _LOCAL.size > len(data) or data[at : at + 4] != b"PK\x03\x04":
        raise _malformed(f"the header of {name[:80]!r}", f"other bytes at {at}")
    start = at + _LOCAL.size + sum(_LOCAL.unpack_from(data, at)[9:11])
    raw = data[start : start + packed]
    content = raw if method == 0 else _inflate(raw, size, name)
    if len(raw) != packed or len(content) != size:
        raise _malformed(f"{size} bytes in {name[:80]!r}", f"{len(content)}")
    if zlib.crc32(content) != crc:
        raise _malformed(f"CRC {crc:#010x} of {name[:80]!r}", f"{zlib.crc32(content):#010x}")
    return content


def _inflate(raw: bytes, size: int, name: str) -> bytes:
    try:
        return zlib.decompressobj(-15).decompress(raw, size + 1)
    except zlib.error as error:
        raise _malformed(f"deflated bytes in {name[:80]!r}", str(error)) from None


def _malformed(expected: str, got: str) -> FormatError:
    return malformed(
        "zip-malformed", "attached files", expected=expected, got=got, then="the file is truncated or damaged"
    )

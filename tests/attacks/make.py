"""Write tests/attacks/tflite: one file for each malformation, named ``<code>--<variant>.tflite``.

``python tests/attacks/make.py`` makes them again from the tiny models of ``tests/tiny_tflite.py``; the code
in the name is the FormatError code that reading the file (``zip-…``: its labels) must give.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tiny_tflite import (  # noqa: E402
    Writer,
    fbs,
    append_zip,
    classifier,
    label_metadata,
    options,
    pack,
    residual,
)  # noqa: E402

CONV, DEPTHWISE, MEAN, DENSE, SOFTMAX = range(5)  # operators of the classifier
IMAGE, FILTER, BIAS, CONVED, AXES = 0, 1, 2, 3, 7  # some of its tensors
ROOT_TABLES = {"codes": 1, "subgraphs": 2, "description": 3, "buffers": 4}


# The bytes of a file, walked without any check.


def u32(data: bytes, at: int) -> int:
    return struct.unpack_from("<I", data, at)[0]


def put(data: bytes, at: int, kind: str, value: Any) -> bytes:
    """Return ``data`` with one little-endian scalar overwritten."""
    changed = bytearray(data)
    struct.pack_into(f"<{kind}", changed, at, value)
    return bytes(changed)


def vtable(data: bytes, table: int) -> int:
    return table - struct.unpack_from("<i", data, table)[0]


def place(data: bytes, table: int, slot: int) -> int:
    """Return where the field of ``table`` is stored."""
    offset = struct.unpack_from("<H", data, vtable(data, table) + 4 + 2 * slot)[0]
    assert offset, f"slot {slot} is not stored"
    return table + offset


def follow(data: bytes, at: int) -> int:
    return at + u32(data, at)


def item(data: bytes, table: int, slot: int, index: int) -> int:
    """Return entry ``index`` of the vector of tables in ``slot``."""
    return follow(data, follow(data, place(data, table, slot)) + 4 + 4 * index)


def tensor_at(data: bytes, index: int) -> int:
    return item(data, item(data, follow(data, 0), ROOT_TABLES["subgraphs"], 0), 0, index)


# Damage to the bytes of the whole classifier.


def damaged_bytes() -> Iterator[tuple[str, bytes]]:
    good = pack(classifier())
    root = follow(good, 0)
    buffers = place(good, root, ROOT_TABLES["buffers"])
    name = follow(good, place(good, tensor_at(good, IMAGE), 3))
    yield "truncated--empty", b""
    yield "truncated--ten-bytes", good[:10]
    yield "wrong-magic--version-2", good.replace(b"TFL3", b"TFL2", 1)
    yield "wrong-magic--png", b"\x89PNG\r\n\x1a\n" + good[8:]
    yield "offset-out-of-range--root", put(good, 0, "I", 0x7FFFFFFC)
    yield "offset-out-of-range--zero", put(good, buffers, "I", 0)
    yield "offset-out-of-range--top-bit", put(good, buffers, "I", 0x80000000)
    yield "offset-out-of-range--cut-in-half", good[: len(good) // 2]
    yield "misaligned--root", put(good, 0, "I", u32(good, 0) + 2)
    yield "misaligned--vector", put(good, buffers, "I", u32(good, buffers) + 1)
    yield "misaligned--vtable", put(good, root, "i", struct.unpack_from("<i", good, root)[0] + 1)
    yield "vtable-malformed--outside", put(good, root, "i", -0x7FFFFFF0)
    yield "vtable-malformed--odd", put(good, vtable(good, root), "H", 7)
    yield "vtable-malformed--empty", put(good, vtable(good, root), "H", 2)
    yield "vtable-malformed--too-long", put(good, vtable(good, root), "H", 0xFFFE)
    yield "table-too-long--past-the-end", put(good, vtable(good, root) + 2, "H", 0xFFFF)
    yield "table-too-long--no-room-for-itself", put(good, vtable(good, root) + 2, "H", 2)
    yield "field-outside-table--version", put(good, vtable(good, root) + 4, "H", 0x400)
    yield "field-outside-table--over-its-vtable", put(good, vtable(good, root) + 4, "H", 2)
    yield "vector-too-long--buffers", put(good, follow(good, buffers), "I", 0xFFFFFFFF)
    yield "vector-too-long--one-too-many", put(good, name, "I", len(good) - name - 3)
    yield "string-unterminated--name", put(good, name + 4 + u32(good, name), "B", 1)
    yield "string-not-utf8--name", put(good, name + 4, "B", 0xFF)
    yield "string-not-utf8--surrogate", good.replace(b"image", b"\xed\xa0\x80ge", 1)
    yield "unknown-type--99", put(good, place(good, tensor_at(good, IMAGE), 1), "b", 99)
    yield "unknown-type--negative", put(good, place(good, tensor_at(good, IMAGE), 1), "b", -1)
    yield "too-much-sharing--one-tensor-a-hundred-times", share_tensor(good)


def share_tensor(good: bytes) -> bytes:
    """Return the file with a vector of 400 tensors that are all one empty table."""
    subgraph = item(good, follow(good, 0), ROOT_TABLES["subgraphs"], 0)
    field, count = place(good, subgraph, 0), 400
    good += bytes(-len(good) % 4)
    start = len(good)
    table = start + 4 + 4 * count + 4
    vector = [count] + [table - (start + 4 + 4 * i) for i in range(count)]
    empty_table = struct.pack("<HHi", 4, 4, 4)
    return put(good + struct.pack(f"<{count + 1}I", *vector) + empty_table, field, "I", start - field)


# Damage to the fields of a well-formed file.

Edit = Callable[[Writer], None]


def tensor(index: int, **fields: Any) -> Edit:
    def edit(w: Writer) -> None:
        for name, value in fields.items():
            assert hasattr(w.graph.tensors[index], name), name
            setattr(w.graph.tensors[index], name, value)

    return edit


def quantization(index: int, **fields: Any) -> Edit:
    def edit(w: Writer) -> None:
        for name, value in fields.items():
            assert hasattr(w.graph.tensors[index].quantization, name), name
            setattr(w.graph.tensors[index].quantization, name, value)

    return edit


def operator(index: int, **fields: Any) -> Edit:
    def edit(w: Writer) -> None:
        for name, value in fields.items():
            assert hasattr(w.graph.operators[index], name), name
            setattr(w.graph.operators[index], name, value)

    return edit


def option(index: int, **fields: Any) -> Edit:
    def edit(w: Writer) -> None:
        for name, value in fields.items():
            assert hasattr(w.graph.operators[index].builtinOptions, name), name
            setattr(w.graph.operators[index].builtinOptions, name, value)

    return edit


def code(index: int, **fields: Any) -> Edit:
    def edit(w: Writer) -> None:
        for name, value in fields.items():
            assert hasattr(w.model.operatorCodes[index], name), name
            setattr(w.model.operatorCodes[index], name, value)

    return edit


def graph(**fields: Any) -> Edit:
    return lambda w: w.graph.__dict__.update(fields)


def model(**fields: Any) -> Edit:
    return lambda w: w.model.__dict__.update(fields)


def outside(w: Writer) -> None:
    buffer = w.model.buffers[w.graph.tensors[FILTER].buffer]
    buffer.data, buffer.offset, buffer.size = None, 1 << 20, 6


def outside_overflow(w: Writer) -> None:
    buffer = w.model.buffers[w.graph.tensors[FILTER].buffer]
    buffer.data, buffer.offset, buffer.size = None, 2**64 - 2, 6


def external_group(w: Writer) -> None:
    w.model.externalBuffers = [fbs.ExternalBufferT()]


def sparse(w: Writer) -> None:
    w.graph.tensors[FILTER].sparsity = fbs.SparsityParametersT()


def blockwise(w: Writer) -> None:
    quantized = w.graph.tensors[FILTER].quantization
    quantized.detailsType = fbs.QuantizationDetails.BlockwiseQuantization
    quantized.details = fbs.BlockwiseQuantizationT()


def signature(*, subgraph: int = 0, index: int = 0) -> Edit:
    def edit(w: Writer) -> None:
        entry = fbs.SignatureDefT()
        entry.signatureKey, entry.subgraphIndex = "serve", subgraph
        entry.inputs, entry.outputs = [fbs.TensorMapT()], []
        entry.inputs[0].name, entry.inputs[0].tensorIndex = "image", index
        w.model.signatureDefs = [entry]

    return edit


def bad_metadata(w: Writer) -> None:
    w.metadata("notes", b"x")
    w.model.metadata[0].buffer = 99


def no_input(w: Writer) -> None:
    w.graph.inputs, w.graph.tensors[IMAGE].buffer = [], w.buffer(bytes(32))


def call(w: Writer) -> None:
    w.op("CALL_ONCE", [], [], options("CallOnce", initSubgraphIndex=7))


def swap(w: Writer) -> None:
    w.graph.operators[CONV], w.graph.operators[DEPTHWISE] = (
        w.graph.operators[DEPTHWISE],
        w.graph.operators[CONV],
    )


def cycle(w: Writer) -> None:
    w.graph.operators[CONV].inputs = [CONVED, FILTER, BIAS]


EDITS: dict[str, Edit] = {
    "unknown-version--4": model(version=4),
    "no-subgraph--none": model(subgraphs=[]),
    "no-input--constant-image": no_input,
    "no-output--none": graph(outputs=[]),
    "external-buffer--model": external_group,
    "external-buffer--tensor": tensor(FILTER, externalBuffer=3),
    "metadata-buffer-out-of-range--99": bad_metadata,
    "signature-out-of-range--tensor": signature(index=99),
    "signature-out-of-range--subgraph": signature(subgraph=9),
    "subgraph-out-of-range--call": call,
    "negative-shape--minus-one": tensor(CONVED, shape=[1, -1, 4, 3]),
    "negative-shape--smallest": tensor(CONVED, shape=[1, -(2**31), 4, 3]),
    "rank-too-high--nine": tensor(CONVED, shape=[1] * 9),
    "tensor-too-large--product-wraps-to-zero": tensor(CONVED, shape=[65536] * 4),
    "tensor-too-large--two-gigabytes": tensor(CONVED, shape=[1, 32768, 65536, 1]),
    "signature-mismatch--rank": tensor(IMAGE, shapeSignature=[-1, 4, 4]),
    "signature-mismatch--size": tensor(IMAGE, shapeSignature=[1, 4, 5, 2]),
    "buffer-out-of-range--99": tensor(FILTER, buffer=99),
    "buffer-out-of-range--largest": tensor(FILTER, buffer=2**32 - 1),
    "buffer-outside-file--offset": outside,
    "buffer-outside-file--overflow": outside_overflow,
    "buffer-size-mismatch--wider-type": tensor(FILTER, type=fbs.TensorType.INT32),
    "buffer-size-mismatch--larger-shape": tensor(FILTER, shape=[300, 1, 1, 2]),
    "buffer-size-mismatch--shape-of-none": tensor(FILTER, shape=[0, 1, 1, 2]),
    "sparse-tensor--filter": sparse,
    "variable-constant--filter": tensor(FILTER, isVariable=True),
    "unsupported-quantization--blockwise": blockwise,
    "scale-not-positive--zero": quantization(FILTER, scale=[0.01, 0.0, 0.01]),
    "scale-not-positive--negative": quantization(IMAGE, scale=[-0.01]),
    "scale-not-finite--nan": quantization(IMAGE, scale=[float("nan")]),
    "scale-not-finite--infinity": quantization(FILTER, scale=[0.01, 0.02, float("inf")]),
    "zero-point-out-of-range--200": quantization(IMAGE, zeroPoint=[200]),
    "zero-point-out-of-range--64-bits": quantization(IMAGE, zeroPoint=[-(2**63)]),
    "quantization-length-mismatch--zero-points": quantization(FILTER, zeroPoint=[0, 0]),
    "quantization-length-mismatch--no-zero-point": quantization(FILTER, zeroPoint=None),
    "quantization-length-mismatch--channels": quantization(FILTER, scale=[0.1, 0.1], zeroPoint=[0, 0]),
    "quantized-dimension-out-of-range--four": quantization(FILTER, quantizedDimension=4),
    "quantized-dimension-out-of-range--negative": quantization(FILTER, quantizedDimension=-1),
    "unknown-operator--9999": code(CONV, builtinCode=9999, deprecatedBuiltinCode=127),
    "unknown-operator--negative": code(CONV, builtinCode=-7, deprecatedBuiltinCode=-7),
    "operator-code-conflict--both": code(CONV, builtinCode=3, deprecatedBuiltinCode=4),
    "operator-code-out-of-range--99": operator(CONV, opcodeIndex=99),
    "tensor-out-of-range--input": operator(CONV, inputs=[IMAGE, 99, BIAS]),
    "tensor-out-of-range--minus-two": operator(CONV, inputs=[IMAGE, FILTER, -2]),
    "tensor-out-of-range--no-output": operator(CONV, outputs=[-1]),
    "tensor-out-of-range--model-input": graph(inputs=[99]),
    "tensor-out-of-range--intermediate": operator(CONV, intermediates=[2**31 - 1]),
    "operator-inputs--one": operator(CONV, inputs=[IMAGE]),
    "operator-inputs--many": operator(CONV, inputs=[IMAGE, FILTER, BIAS, BIAS]),
    "operator-outputs--none": operator(CONV, outputs=[]),
    "operator-outputs--two": operator(CONV, outputs=[CONVED, CONVED]),
    "missing-input--filter": operator(CONV, inputs=[IMAGE, -1, BIAS]),
    "options-mismatch--pool-for-conv": operator(
        CONV, builtinOptionsType=fbs.BuiltinOptions.Pool2DOptions, builtinOptions=options("Pool2D")
    ),
    "options-mismatch--number-250": operator(CONV, builtinOptionsType=250),
    "options-missing--conv": operator(CONV, builtinOptionsType=0, builtinOptions=None),
    "option-out-of-range--stride-zero": option(CONV, strideW=0),
    "option-out-of-range--stride-negative": option(CONV, strideH=-(2**31)),
    "option-out-of-range--dilation": option(DEPTHWISE, dilationHFactor=2**31 - 1),
    "unknown-option-value--padding": option(CONV, padding=9),
    "unknown-option-value--activation": option(CONV, fusedActivationFunction=-3),
    "custom-without-name--none": code(CONV, builtinCode=32, deprecatedBuiltinCode=32),
    "used-before-produced--swapped": swap,
    "used-before-produced--cycle": cycle,
    "produced-twice--conv": operator(DEPTHWISE, outputs=[CONVED]),
    "writes-to-constant--filter": operator(CONV, outputs=[FILTER]),
    "writes-to-input--image": operator(CONV, outputs=[IMAGE]),
    "duplicate-input--image": graph(inputs=[IMAGE, IMAGE]),
    "output-not-produced--lonely": lambda w: w.graph.outputs.append(w.tensor("lonely", [1])),
    "shape-mismatch--conv-output": tensor(CONVED, shape=[1, 4, 4, 300]),
    "shape-mismatch--conv-rank": tensor(CONVED, shape=[4, 4, 3]),
    "shape-mismatch--valid-padding": option(DEPTHWISE, padding=1),
    "shape-mismatch--depth-multiplier": option(DEPTHWISE, depthMultiplier=2**30),
    "shape-mismatch--mean-keeps": option(MEAN, keepDims=True),
    "shape-mismatch--bias-of-another": operator(CONV, inputs=[IMAGE, FILTER, AXES]),
    "quantization-missing--logits": tensor(10, quantization=None),
    "quantization-missing--filter": tensor(FILTER, quantization=None),
    "softmax-scale-degenerate--scale": quantization(10, scale=[1.188e-42]),
    "softmax-scale-degenerate--beta": option(SOFTMAX, beta=0.0),
    "softmax-scale-degenerate--negative-beta": option(SOFTMAX, beta=-1.0),
    "shape-mismatch--dense-features": operator(DENSE, inputs=[CONVED, 9, -1]),
}

SHAPE_EDITS: dict[str, Edit] = {
    "shape-mismatch--pad-output": tensor(2, shape=[1, 600, 6, 3]),
    "shape-mismatch--concatenation-axis": option(2, axis=7),
    "shape-mismatch--concatenation-sum": tensor(5, shape=[1, 6, 6, 7]),
    "shape-mismatch--pool": option(3, strideW=3),
    "shape-mismatch--reshape": tensor(8, shape=[1, 5400]),
    "shape-mismatch--logistic": tensor(9, shape=[1, 53]),
    "shape-mismatch--broadcast": operator(1, inputs=[2, 1]),
    "unknown-option-value--pool-padding": option(3, padding=2),
    "option-out-of-range--filter": option(3, filterHeight=0),
}


def nan_beta() -> bytes:
    w = classifier()
    w.graph.operators[-1].builtinOptions.beta = float("nan")
    return pack(w)


# Damage to the files attached behind a well-formed model.


def damaged_zips() -> Iterator[tuple[str, bytes]]:
    w = classifier()
    w.metadata("TFLITE_METADATA", label_metadata())
    bare = pack(w)
    good = append_zip(bare, {"labels.txt": b"mel\nnv\n"}, compress=True)
    directory, end = good.index(b"PK\x01\x02"), good.index(b"PK\x05\x06")
    yield "zip-malformed--end-record-cut", good[:-4]
    yield "zip-malformed--directory-before-the-file", put(good, end + 12, "I", 0x7FFFFFFF)
    yield "zip-malformed--entry-magic", put(good, directory, "I", 0)
    yield "zip-malformed--name-too-long", put(good, directory + 28, "H", 0xFFFF)
    yield "zip-malformed--header-elsewhere", put(good, directory + 42, "I", 4)
    yield "zip-malformed--crc", put(good, directory + 16, "I", 7)
    yield "zip-malformed--packed-past-the-end", put(good, directory + 20, "I", 0x7FFFFFFF)
    yield "zip-malformed--not-deflated", put(good, good.index(b"PK\x03\x04") + 40, "I", 0xFFFFFFFF)
    yield "zip-malformed--label-file-missing", append_zip(bare, {"other.txt": b"mel"})
    yield "zip-malformed--labels-not-utf8", append_zip(bare, {"labels.txt": b"\xff\xfe"})
    yield "zip-too-large--claims-4-gigabytes", put(good, directory + 24, "I", 0xFFFFFFFF)
    yield "zip-too-large--65535-files", put(good, end + 10, "H", 0xFFFF)
    yield "zip-too-large--bomb", append_zip(bare, {"labels.txt": bytes((1 << 20) + 1)}, compress=True)
    yield "zip-malformed--bomb-that-claims-100-bytes", lying_bomb(bare)
    yield "zip-unsupported--encrypted", put(good, directory + 8, "H", 1)
    yield "zip-unsupported--bzip2", put(good, directory + 10, "H", zipfile.ZIP_BZIP2)


def lying_bomb(bare: bytes) -> bytes:
    bomb = append_zip(bare, {"labels.txt": bytes((1 << 20) + 1)}, compress=True)
    return put(bomb, bomb.index(b"PK\x01\x02") + 24, "I", 100)


def attacks() -> dict[str, bytes]:
    """Return {``<code>--<variant>``: bytes} of every attack."""
    made = dict(damaged_bytes())
    for base, edits in ((classifier, EDITS), (residual, SHAPE_EDITS)):
        for name, edit in edits.items():
            writer = base()
            edit(writer)
            made[name] = pack(writer)
    made["option-out-of-range--beta-nan"] = nan_beta()
    made.update(damaged_zips())
    return made


if __name__ == "__main__":
    folder = HERE / "tflite"
    for old in folder.glob("*.tflite"):
        old.unlink()
    for name, data in attacks().items():
        (folder / f"{name}.tflite").write_bytes(data)

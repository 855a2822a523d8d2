"""Tiny .tflite files written field by field with LiteRT's own schema writer, so that a test can break any
field.

``classifier()`` is a whole int8 network in 3 kB: image [1,4,4,2] → 1×1 convolution → dilated depthwise →
mean → fully connected → softmax. The objects are LiteRT's (``ModelT``, ``TensorT``, …); ``pack`` gives the
bytes.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as fbs

Model = Any

_BYTES = {
    "int8": fbs.TensorType.INT8,
    "uint8": fbs.TensorType.UINT8,
    "int32": fbs.TensorType.INT32,
    "int64": fbs.TensorType.INT64,
    "float32": fbs.TensorType.FLOAT32,
    "float16": fbs.TensorType.FLOAT16,
    "int16": fbs.TensorType.INT16,
    "bool": fbs.TensorType.BOOL,
    "string": fbs.TensorType.STRING,
    "int4": fbs.TensorType.INT4,
}


class Writer:
    """Collects tensors and operators of one subgraph in the order they are added."""

    def __init__(self) -> None:
        self.model = fbs.ModelT()
        self.model.version = 3
        self.model.description = "tiny"
        self.model.operatorCodes, self.model.buffers = [], [fbs.BufferT()]
        self.model.metadata, self.model.signatureDefs = [], []
        self.graph = fbs.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        *,
        dtype: str = "int8",
        scale: Any = None,
        zero_point: Any = None,
        axis: int = 0,
        data: np.ndarray | None = None,
        signature: Sequence[int] | None = None,
    ) -> int:
        """Add a tensor and return its index; ``data`` makes it a constant."""
        tensor = fbs.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), _BYTES[dtype]
        tensor.shapeSignature = None if signature is None else list(signature)
        tensor.buffer = 0 if data is None else self.buffer(np.ascontiguousarray(data).tobytes())
        if scale is not None:
            tensor.quantization = fbs.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(np.float32(scale))
            zero = np.zeros_like(tensor.quantization.scale) if zero_point is None else zero_point
            tensor.quantization.zeroPoint = np.atleast_1d(np.asarray(zero, np.int64))
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def buffer(self, data: bytes) -> int:
        buffer = fbs.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def op(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> Any:
        """Add an operator; ``options`` is one of LiteRT's ``…OptionsT`` objects."""
        operator = fbs.OperatorT()
        operator.opcodeIndex = self._code(getattr(fbs.BuiltinOperator, name))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(fbs.BuiltinOptions, kind)
            operator.builtinOptions = options
        self.graph.operators.append(operator)
        return operator

    def _code(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code = fbs.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def metadata(self, name: str, data: bytes) -> None:
        entry = fbs.MetadataT()
        entry.name, entry.buffer = name, self.buffer(data)
        self.model.metadata.append(entry)


def options(kind: str, **fields: Any) -> Any:
    """Return LiteRT's ``kind``OptionsT with its camelCase fields set."""
    made = getattr(fbs, f"{kind}OptionsT")()
    for name, value in fields.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


def classifier() -> Writer:
    """int8 [1,4,4,2] → CONV_2D → DEPTHWISE_CONV_2D (dilation 2) → MEAN → FULLY_CONNECTED → SOFTMAX [1,2]."""
    rng = np.random.default_rng(5)
    w = Writer()
    image = w.tensor("image", [1, 4, 4, 2], scale=1 / 128, zero_point=0, signature=[-1, 4, 4, 2])
    filters = w.tensor(
        "conv/filter",
        [3, 1, 1, 2],
        scale=[0.01, 0.02, 0.03],
        data=rng.integers(-127, 128, (3, 1, 1, 2), np.int8),
    )
    bias = w.tensor(
        "conv/bias", [3], dtype="int32", scale=[1e-4, 2e-4, 3e-4], data=np.arange(3, dtype=np.int32)
    )
    conv = w.tensor("conv", [1, 4, 4, 3], scale=0.02, zero_point=-128)
    w.op(
        "CONV_2D",
        [image, filters, bias],
        [conv],
        options("Conv2D", strideH=1, strideW=1, fusedActivationFunction=3),
    )
    depth = w.tensor(
        "depth/filter",
        [1, 3, 3, 3],
        scale=[0.01, 0.02, 0.03],
        axis=3,
        data=rng.integers(-127, 128, (1, 3, 3, 3), np.int8),
    )
    depth_bias = w.tensor("depth/bias", [3], dtype="int32", scale=[1e-4] * 3, data=np.zeros(3, np.int32))
    dilated = w.tensor("depth", [1, 4, 4, 3], scale=0.02, zero_point=-128)
    w.op(
        "DEPTHWISE_CONV_2D",
        [conv, depth, depth_bias],
        [dilated],
        options(
            "DepthwiseConv2D", strideH=1, strideW=1, depthMultiplier=1, dilationHFactor=2, dilationWFactor=2
        ),
    )
    axes = w.tensor("axes", [2], dtype="int32", data=np.array([1, 2], np.int32))
    pooled = w.tensor("pooled", [1, 3], scale=0.02, zero_point=-128)
    w.op("MEAN", [dilated, axes], [pooled], options("Reducer", keepDims=False))
    head = w.tensor("head/weights", [2, 3], scale=0.01, data=rng.integers(-127, 128, (2, 3), np.int8))
    logits = w.tensor("logits", [1, 2], scale=0.1, zero_point=3)
    w.op("FULLY_CONNECTED", [pooled, head, -1], [logits], options("FullyConnected"))
    output = w.tensor("probabilities", [1, 2], scale=1 / 256, zero_point=-128)
    w.op("SOFTMAX", [logits], [output], options("Softmax", beta=1.0))
    w.graph.inputs, w.graph.outputs = [image], [output]
    return w


def residual() -> Writer:
    """float32 [1,4,4,3] → PAD, ADD, CONCATENATION, MAX_POOL_2D, RESHAPE, LOGISTIC [1,54]."""
    w = Writer()
    image = w.tensor("image", [1, 4, 4, 3], dtype="float32")
    amounts = w.tensor(
        "amounts", [4, 2], dtype="int32", data=np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    )
    padded = w.tensor("padded", [1, 6, 6, 3], dtype="float32")
    w.op("PAD", [image, amounts], [padded], options("Pad"))
    shift = w.tensor("shift", [3], dtype="float32", data=np.ones(3, np.float32))
    added = w.tensor("added", [1, 6, 6, 3], dtype="float32")
    w.op("ADD", [padded, shift], [added], options("Add"))
    joined = w.tensor("joined", [1, 6, 6, 6], dtype="float32")
    w.op("CONCATENATION", [padded, added], [joined], options("Concatenation", axis=-1))
    pooled = w.tensor("pooled", [1, 3, 3, 6], dtype="float32")
    w.op(
        "MAX_POOL_2D",
        [joined],
        [pooled],
        options("Pool2D", padding=1, strideH=2, strideW=2, filterHeight=2, filterWidth=2),
    )
    shape = w.tensor("shape", [2], dtype="int32", data=np.array([1, 54], np.int32))
    flat = w.tensor("flat", [1, 54], dtype="float32")
    w.op("RESHAPE", [pooled, shape], [flat], options("Reshape", newShape=[1, 54]))
    output = w.tensor("output", [1, 54], dtype="float32")
    w.op("LOGISTIC", [flat], [output])
    w.graph.inputs, w.graph.outputs = [image], [output]
    return w


def edges() -> Writer:
    """float32 [1,4,4,3] → QUANTIZE → AVERAGE_POOL_2D, MUL, ADD, LOGISTIC, RESHAPE in int8 → DEQUANTIZE [1,12]."""
    w = Writer()
    image = w.tensor("image", [1, 4, 4, 3], dtype="float32")
    stored = w.tensor("stored", [1, 4, 4, 3], scale=1 / 128, zero_point=0)
    w.op("QUANTIZE", [image], [stored], options("Quantize"))
    pooled = w.tensor("pooled", [1, 2, 2, 3], scale=1 / 128, zero_point=0)
    w.op(
        "AVERAGE_POOL_2D",
        [stored],
        [pooled],
        options("Pool2D", padding=0, strideH=2, strideW=2, filterHeight=3, filterWidth=3),
    )
    gain = w.tensor("gain", [1, 1, 1, 3], scale=0.01, data=np.array([1, -2, 3], np.int8))
    scaled = w.tensor("scaled", [1, 2, 2, 3], scale=0.01, zero_point=5)
    w.op("MUL", [pooled, gain], [scaled], options("Mul"))
    added = w.tensor("added", [1, 2, 2, 3], scale=0.02, zero_point=-3)
    w.op("ADD", [pooled, scaled], [added], options("Add", fusedActivationFunction=1))
    squashed = w.tensor("squashed", [1, 2, 2, 3], scale=1 / 256, zero_point=-128)
    w.op("LOGISTIC", [added], [squashed])
    flat = w.tensor("flat", [1, 12], scale=1 / 256, zero_point=-128)
    w.op("RESHAPE", [squashed], [flat], options("Reshape", newShape=[1, 12]))
    output = w.tensor("output", [1, 12], dtype="float32")
    w.op("DEQUANTIZE", [flat], [output], options("Dequantize"))
    w.graph.inputs, w.graph.outputs = [image], [output]
    return w


def pack(writer: Writer | Model) -> bytes:
    """Return the model as .tflite bytes."""
    model = writer.model if isinstance(writer, Writer) else writer
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def append_zip(data: bytes, files: dict[str, bytes], *, compress: bool = False) -> bytes:
    """Return ``data`` with a zip of ``files`` behind it, as TFLite Metadata writers leave it."""
    stream = io.BytesIO()
    stream.write(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, archive.compression)
    return stream.getvalue()


def label_metadata(*, file: str = "labels.txt") -> bytes:
    """Return the metadata FlatBuffer (M001) that names ``file`` as the labels of the first output."""
    b = flatbuffers.Builder(256)
    name = b.CreateString(file)
    b.StartObject(5)
    b.PrependUOffsetTRelativeSlot(0, name, 0)
    b.PrependInt8Slot(2, 2, 0)  # TENSOR_AXIS_LABELS
    entry = b.EndObject()

    def vector_of(item: int) -> int:
        b.StartVector(4, 1, 4)
        b.PrependUOffsetTRelative(item)
        return b.EndVector()

    def table_with(slots: int, slot: int, value: int) -> int:
        b.StartObject(slots)
        b.PrependUOffsetTRelativeSlot(slot, value, 0)
        return b.EndObject()

    output = table_with(7, 6, vector_of(entry))
    subgraph = table_with(8, 3, vector_of(output))
    b.Finish(table_with(8, 3, vector_of(subgraph)), b"M001")
    return bytes(b.Output())

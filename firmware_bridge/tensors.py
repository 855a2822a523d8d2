"""Tensors, their quantisation and their constants, out of a .tflite file.

Constants come from the FlatBuffer or, in files above 2 GB, from behind it by offset and size; both are views.
"""

from __future__ import annotations

import math

import numpy as np

from firmware_bridge import schema
from firmware_bridge.flatbuffer import Source, Table, malformed
from firmware_bridge.graph import Quantization, Tensor

MAX_RANK = 8  # the highest any TFLite kernel accepts
MAX_TENSOR_BYTES = 2**31 - 1

_NOTHING = np.empty(0, np.uint8)


def read_buffers(model: Table) -> list[np.ndarray]:
    """Return every buffer as a read-only uint8 view of the file, [0] where it is empty.

    Raises FormatError ``buffer-outside-file``.
    """
    return [_read_buffer(table, model.source) for table in model.get(schema.MODEL, "buffers")]


def _read_buffer(table: Table, source: Source) -> np.ndarray:
    data = table.get(schema.BUFFER, "data")
    offset, size = table.get(schema.BUFFER, "offset"), table.get(schema.BUFFER, "size")
    if data.size or offset <= 1 or size == 0:  # 1 is the converter's placeholder for "not yet placed"
        return data
    if offset + size > source.size:
        raise malformed(
            "buffer-outside-file",
            table.where,
            expected=f"its data inside the file of {source.size} bytes",
            got=f"{size} bytes at {offset}",
            then="the file is truncated, fetch it again",
        )
    return np.frombuffer(source.view, np.uint8, size, offset)


def read_tensor(table: Table, index: int, buffers: list[np.ndarray]) -> Tensor:
    """Return one tensor; FormatError with the codes listed in ``tflite``."""
    name = table.get(schema.TENSOR, "name") or ""
    table.where = f"{table.where} {name[:80]!r}"
    dtype = table.get(schema.TENSOR, "type")
    shape = _read_shape(table, dtype)
    variable = table.get(schema.TENSOR, "is_variable")
    if table.get(schema.TENSOR, "sparsity") is not None:
        raise malformed(
            "sparse-tensor",
            table.where,
            expected="dense weights",
            got="a sparse tensor",
            then="store the model without sparsity",
        )
    if table.get(schema.TENSOR, "external_buffer"):
        raise malformed(
            "external-buffer",
            table.where,
            expected="its data in this file",
            got="an external buffer",
            then="write one file",
        )
    data = _read_data(table, dtype, shape, buffers)
    if variable and data is not None:
        raise malformed(
            "variable-constant",
            table.where,
            expected="a variable without stored values",
            got=f"{data.nbytes} bytes",
        )
    return Tensor(
        index=index,
        name=name,
        shape=shape,
        dtype=dtype,
        quantization=_read_quantization(table, dtype, shape),
        data=data,
        signature=_read_signature(table, shape),
        variable=variable,
    )


def _read_shape(table: Table, dtype: str) -> tuple[int, ...]:
    shape = table.integers(schema.TENSOR, "shape")
    if len(shape) > MAX_RANK:
        raise malformed(
            "rank-too-high", table.where, expected=f"at most {MAX_RANK} dimensions", got=len(shape)
        )
    if shape and min(shape) < 0:
        raise malformed("negative-shape", table.where, expected="dimensions of at least 0", got=list(shape))
    if math.prod(shape) * schema.BITS.get(dtype, 8) > 8 * MAX_TENSOR_BYTES:
        raise malformed(
            "tensor-too-large",
            table.where,
            expected=f"at most {MAX_TENSOR_BYTES} bytes",
            got=f"{dtype} {list(shape)}",
        )
    return shape


def _read_signature(table: Table, shape: tuple[int, ...]) -> tuple[int, ...]:
    signature = table.integers(schema.TENSOR, "shape_signature")
    if not signature:
        return shape
    fits = len(signature) == len(shape) and all(s in (-1, n) for s, n in zip(signature, shape))
    if not fits:
        raise malformed(
            "signature-mismatch",
            table.where,
            expected=f"a shape signature that is {list(shape)} or −1",
            got=list(signature[:16]),
        )
    return signature


def _read_data(
    table: Table, dtype: str, shape: tuple[int, ...], buffers: list[np.ndarray]
) -> np.ndarray | None:
    number = table.get(schema.TENSOR, "buffer")
    if number >= max(len(buffers), 1):
        raise malformed(
            "buffer-out-of-range", table.where, expected=f"a buffer below {len(buffers)}", got=number
        )
    raw = buffers[number] if number else _NOTHING  # buffer 0 is the empty one by convention
    if raw.size == 0:
        return None
    if dtype not in schema.BITS:
        return raw
    needed = (math.prod(shape) * schema.BITS[dtype] + 7) // 8
    if raw.size != needed:
        raise malformed(
            "buffer-size-mismatch",
            table.where,
            expected=f"{needed} bytes for {dtype} {list(shape)}",
            got=f"a buffer of {raw.size}",
        )
    if schema.BITS[dtype] < 8 or dtype.startswith(("bfloat", "float8")):
        return raw  # NumPy has no such type: the packed bytes as stored
    if dtype == "bool":
        table.source.charge(raw.size, table.where)
        return (raw != 0).reshape(shape)
    return raw.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _read_quantization(table: Table, dtype: str, shape: tuple[int, ...]) -> Quantization | None:
    entry = table.get(schema.TENSOR, "quantization")
    if entry is None:
        return None
    if entry.get(schema.QUANTIZATION, "details_type"):
        raise malformed(
            "unsupported-quantization",
            table.where,
            expected="affine quantisation",
            got="custom or block-wise parameters",
            then="convert with per-tensor or per-channel quantisation",
        )
    entry.get(schema.QUANTIZATION, "min")
    entry.get(schema.QUANTIZATION, "max")
    scale = entry.array(schema.QUANTIZATION, "scale")
    zero_point = entry.array(schema.QUANTIZATION, "zero_point")
    axis = entry.get(schema.QUANTIZATION, "quantized_dimension")
    if scale.size == 0:
        return None  # only the observed range was stored: not quantised
    _check_scale(table, scale)
    _check_zero_point(table, dtype, zero_point)
    if zero_point.size != scale.size:
        raise malformed(
            "quantization-length-mismatch",
            table.where,
            expected=f"{scale.size} zero points",
            got=zero_point.size,
        )
    if axis < 0 or (shape and axis >= len(shape)):
        raise malformed(
            "quantized-dimension-out-of-range",
            table.where,
            expected=f"a quantised dimension of {list(shape)}",
            got=axis,
        )
    if scale.size > 1 and (not shape or scale.size != shape[axis]):
        raise malformed(
            "quantization-length-mismatch",
            table.where,
            expected=f"1 scale or one for each slice of dimension {axis} of {list(shape)}",
            got=scale.size,
        )
    return Quantization(scale=scale, zero_point=zero_point, axis=axis)


def _check_scale(table: Table, scale: np.ndarray) -> None:
    if not np.isfinite(scale).all():
        raise malformed(
            "scale-not-finite", table.where, expected="finite scales", got=scale[~np.isfinite(scale)][0]
        )
    if not (scale > 0).all():
        raise malformed(
            "scale-not-positive", table.where, expected="scales above 0", got=scale[~(scale > 0)][0]
        )


def _check_zero_point(table: Table, dtype: str, zero_point: np.ndarray) -> None:
    if dtype not in schema.INTEGER_RANGES or zero_point.size == 0:
        return
    lowest, highest = schema.INTEGER_RANGES[dtype]
    worst = [int(v) for v in (zero_point.min(), zero_point.max()) if not lowest <= int(v) <= highest]
    if worst:
        raise malformed(
            "zero-point-out-of-range",
            table.where,
            expected=f"{dtype} zero points, {lowest} to {highest}",
            got=worst[0],
        )

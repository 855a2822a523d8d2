"""A model as plain frozen data, and this package's errors.

BridgeError              every error this package raises on purpose, with a stable ``code``
├── FormatError          the bytes are not a well-formed .tflite
├── UnsupportedError     a well-formed model this package cannot turn into C (names operator, tensor, reason)
├── PlanError            no valid memory plan
├── LinkError            a frame or conversation broke the protocol
└── BoardError           a board, emulator or compiler is missing or failed
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

import numpy as np


class BridgeError(Exception):
    """An error with a stable ``code``; ``str(error)`` is one line: expected, got, where, what to do."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class FormatError(BridgeError):
    """The bytes are not a well-formed .tflite file."""


class UnsupportedError(BridgeError):
    """A well-formed model that cannot be turned into C here."""


class PlanError(BridgeError):
    """No valid memory plan exists under the given limits."""


class LinkError(BridgeError):
    """A frame or a conversation broke the protocol."""


class BoardError(BridgeError):
    """A board, emulator or compiler is missing or failed."""


_NOT_IN_NUMPY = {"string": 0, "resource": 0, "variant": 0, "int2": 2, "int4": 4, "uint4": 4, "bfloat16": 16}
_NOT_IN_NUMPY |= {"float8_e4m3fn": 8, "float8_e5m2": 8}


@dataclass(frozen=True)
class Quantization:
    """Affine quantisation: real = scale · (stored − zero_point), per tensor or per slice of ``axis``."""

    scale: np.ndarray  # float32 [1] or [channels]
    zero_point: np.ndarray  # int64, same length as scale
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        return self.scale.size > 1


@dataclass(frozen=True)
class Tensor:
    """One tensor; ``data`` is None unless the file holds its values (weights, biases, shapes)."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str  # NumPy name: int8, uint8, int16, int32, int64, float16, float32, bool, …
    quantization: Quantization | None = None
    data: np.ndarray | None = None
    signature: tuple[int, ...] = ()  # the shape with −1 where it is free at run time; () when made by hand
    variable: bool = False  # keeps its values from one run to the next

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Bytes of all values; 0 for types without a fixed size (string, resource, variant)."""
        bits = _NOT_IN_NUMPY.get(self.dtype)
        return (
            self.elements * np.dtype(self.dtype).itemsize if bits is None else (self.elements * bits + 7) // 8
        )


@dataclass(frozen=True)
class Op:
    """One operator: TFLite's builtin name (``CONV_2D``), tensor indices (−1: absent), options by schema name.

    Option values are plain: int, float, bool, str (enumerations by name: ``SAME``, ``RELU6``, ``NONE``), tuple.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """The main subgraph of a model: operators in execution order."""

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    def tensor(self, index: int) -> Tensor:
        return self.tensors[index]

    def constant_ops(self) -> frozenset[int]:
        """Indices of the operators that no input reaches, such as those that widen weights stored as float16."""
        known = {-1, *(tensor.index for tensor in self.tensors if tensor.data is not None)}
        found = set()
        for op in self.ops:
            if known.issuperset(op.inputs):
                known.update(op.outputs)
                found.add(op.index)
        return frozenset(found)

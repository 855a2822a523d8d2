"""An input tensor's memory, taken once when a model is loaded instead of asked for in every run.

LiteRT's ``tensor()`` makes an array for each run and refuses to run while one is held, because a run may move tensors. It does
so only where a shape is known no sooner than the run: where that cannot be, the address stays the one that ``allocate_tensors``
gave. Asking costs about 3 µs an input beside an inference of 250 (128 × 128, α = 0.25), and ``predict`` adds some fifteen in all.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from firmware_bridge.graph import Graph, Op

# Operators whose outputs have shapes that follow from those of their inputs,
PLAIN = frozenset(
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE DIV FULLY_CONNECTED HARD_SWISH LEAKY_RELU LOGISTIC "
    "MAXIMUM MAX_POOL_2D MINIMUM MUL PRELU QUANTIZE RELU RELU6 SOFTMAX SQUEEZE SUB TANH".split()
)
# and those where they follow from the first input's and from the values of the others: a shape, axes, paddings.
TOLD = frozenset(
    "BATCH_TO_SPACE_ND MEAN PAD PADV2 REDUCE_MAX RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPACE_TO_BATCH_ND SUM "
    "TRANSPOSE".split()
)


def stays(graph: Graph) -> bool:
    """Whether every shape of the model is known before it runs, so that no run moves its tensors."""

    def is_known(op: Op) -> bool:
        if op.name in TOLD:
            return all(graph.tensor(index).data is not None for index in op.inputs[1:] if index >= 0)
        return op.name in PLAIN

    return all(is_known(op) for op in graph.ops)


def held(interpreter: Any, index: int) -> np.ndarray:
    """The memory of one tensor of an ``Interpreter`` after ``allocate_tensors``, in its shape and dtype, to write into.

    It keeps the interpreter alive. Only for a model that ``stays``, and until its tensors are allocated again.
    """
    view = interpreter.tensor(index)()
    memory = (ctypes.c_char * view.nbytes).from_address(view.ctypes.data)
    memory.interpreter = interpreter
    return np.frombuffer(memory, view.dtype).reshape(view.shape)

"""An input tensor's memory, taken once when a model is loaded instead of asked for in every run.

LiteRT's ``tensor()`` makes an array for each run and refuses to run while one is held, because a run may move tensors. It does
so only where a shape is known no sooner than the run: where that cannot be, the address stays the one that ``allocate_tensors``
gave. Asking costs about 3 µs an input beside an inference of 250 (128 × 128, α = 0.25), a third of what ``predict`` adds.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from firmware_bridge.graph import Graph

# Operators whose outputs have shapes that follow from the shapes of their inputs and from whole numbers in the file.
SHAPED = frozenset(
    "ADD AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE DIV FULLY_CONNECTED HARD_SWISH "
    "LEAKY_RELU LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PAD PADV2 PRELU QUANTIZE REDUCE_MAX RELU RELU6 RESHAPE "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SOFTMAX SPACE_TO_BATCH_ND SQUEEZE SUB SUM TANH TRANSPOSE".split()
)


def stays(graph: Graph) -> bool:
    """Whether every shape of the model is known before it runs, so that no run moves its tensors.

    Shapes, axes and paddings are operands of whole numbers: all of these must be in the file.
    """
    return all(
        op.name in SHAPED
        and all(
            graph.tensor(operand).data is not None or graph.tensor(operand).dtype not in ("int32", "int64")
            for operand in op.inputs
            if operand >= 0
        )
        for op in graph.ops
    )


def held(interpreter: Any, index: int) -> np.ndarray:
    """The memory of one tensor of an ``Interpreter`` after ``allocate_tensors``, in its shape and dtype, to write into.

    It keeps the interpreter alive. Only for a model that ``stays``, and until its tensors are allocated again.
    """
    view = interpreter.tensor(index)()
    memory = (ctypes.c_char * view.nbytes).from_address(view.ctypes.data)
    memory.interpreter = interpreter
    return np.frombuffer(memory, view.dtype).reshape(view.shape)

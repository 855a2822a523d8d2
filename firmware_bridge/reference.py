"""What TensorFlow Lite's reference kernels make of an input, tensor by tensor: the oracle of ``--check``.

LiteRT is imported here, and only when it is asked for something.
"""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np

from firmware_bridge.graph import BridgeError, Graph, Tensor


def run_reference(
    model: bytes,
    graph: Graph,
    stripped: Graph,
    inputs: Sequence[Sequence[np.ndarray]],
    *,
    tensors: Sequence[int],
) -> Iterator[dict[int, np.ndarray]]:
    """Yield, for each input, {tensor index: value} of ``tensors``, by LiteRT's BUILTIN_REF kernels.

    ``graph`` is what ``tflite.parse`` made of ``model``; ``stripped`` the same without float edges. ``inputs``: for
    each run one array for each input of ``stripped``, as stored integers; a float32 input gets the real values they
    stand for. Raises BridgeError ``litert-missing`` or ``reference-failed``.
    """
    interpreter = _open(model)
    try:
        interpreter.allocate_tensors()
        details = {detail["index"]: detail for detail in interpreter.get_input_details()}
        for arrays in inputs:
            for outer, inner, array in zip(graph.inputs, stripped.inputs, arrays, strict=True):
                value = _as_fed(graph.tensor(outer), stripped.tensor(inner), array)
                interpreter.set_tensor(outer, value.reshape(details[outer]["shape"]))
            interpreter.invoke()
            yield {index: interpreter.get_tensor(index) for index in tensors}
    except (RuntimeError, ValueError) as error:
        raise BridgeError(f"LiteRT refuses the model: {str(error)[:200]}", code="reference-failed") from None


def _open(model: bytes):
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise BridgeError(
            "expected LiteRT, for reference answers; it is not installed: pip install ai-edge-litert",
            code="litert-missing",
        ) from None
    try:
        return Interpreter(
            model_content=bytes(model),
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
            num_threads=1,
        )
    except (RuntimeError, ValueError) as error:
        raise BridgeError(f"LiteRT refuses the model: {str(error)[:200]}", code="reference-failed") from None


def _as_fed(outer: Tensor, inner: Tensor, array: np.ndarray) -> np.ndarray:
    if outer.dtype != "float32":
        return array
    found = inner.quantization
    assert found is not None  # the reader demands scales of what QUANTIZE makes
    return ((array.astype(np.int32) - int(found.zero_point[0])) * found.scale[0]).astype(np.float32)

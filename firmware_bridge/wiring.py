"""The order in which a graph's tensors come to life: each is there once, and before it is used.

Runtimes execute operators in file order. A file that breaks the order makes them read memory that nothing has written.
"""

from __future__ import annotations

from firmware_bridge.graph import FormatError, Graph, Tensor


def check_wiring(graph: Graph, where: str) -> None:
    """Raise FormatError unless operators, in order, read only what is there and write each tensor once.

    Codes: ``duplicate-input``, ``writes-to-input``, ``writes-to-constant``, ``produced-twice``,
    ``used-before-produced``, ``output-not-produced``.
    """
    inputs = set(graph.inputs)
    if len(inputs) < len(graph.inputs):
        raise _error(where, "each model input once", f"inputs {list(graph.inputs)[:16]}", "duplicate-input")
    there = {tensor.index for tensor in graph.tensors if _is_there(tensor)} | inputs
    produced: set[int] = set()
    for op in graph.ops:
        place = f"{where}, operator {op.index} ({op.name})"
        for index in op.inputs:
            if index >= 0 and index not in there:
                raise _error(place, "inputs that exist by then", _named(graph, index), "used-before-produced")
        for index in op.outputs:
            _check_write(graph, index, place, produced, inputs)
        there.update(op.outputs)
    for index in graph.outputs:
        if index not in there:
            raise _error(where, "outputs that some operator writes", _named(graph, index), "output-not-produced")


def _is_there(tensor: Tensor) -> bool:
    return tensor.data is not None or tensor.variable or tensor.elements == 0


def _check_write(graph: Graph, index: int, place: str, produced: set[int], inputs: set[int]) -> None:
    if index in inputs:
        raise _error(place, "outputs other than model inputs", _named(graph, index), "writes-to-input")
    if graph.tensor(index).data is not None:
        raise _error(place, "outputs other than constants", _named(graph, index), "writes-to-constant")
    if index in produced:
        raise _error(place, "outputs not written before", _named(graph, index), "produced-twice")
    produced.add(index)


def _named(graph: Graph, index: int) -> str:
    return f"tensor {index} {graph.tensor(index).name[:80]!r}"


def _error(place: str, expected: str, got: str, code: str) -> FormatError:
    return FormatError(f"{place}: expected {expected}, got {got}: the file is damaged", code=code)

"""The order in which a graph's tensors come to life: each is there once, and before it is used.

Runtimes execute operators in file order. A file that breaks the order makes them read memory that nothing
has written.
"""

from __future__ import annotations

from firmware_bridge.flatbuffer import malformed
from firmware_bridge.graph import Graph, Tensor


def check_wiring(graph: Graph, where: str) -> None:
    """Raise FormatError unless operators, in order, read only what is there and write each tensor once.

    Codes: ``duplicate-input``, ``writes-to-input``, ``writes-to-constant``, ``produced-twice``,
    ``used-before-produced``, ``output-not-produced``.
    """
    inputs = set(graph.inputs)
    if len(inputs) < len(graph.inputs):
        raise malformed(
            "duplicate-input",
            where,
            expected="each model input once",
            got=f"inputs {list(graph.inputs)[:16]}",
        )
    there = {tensor.index for tensor in graph.tensors if _is_there(tensor)} | inputs
    produced: set[int] = set()
    for op in graph.ops:
        place = f"{where}, operator {op.index} ({op.name})"
        for index in op.inputs:
            if index >= 0 and index not in there:
                raise malformed(
                    "used-before-produced",
                    place,
                    expected="inputs that exist by then",
                    got=_named(graph, index),
                )
        for index in op.outputs:
            _check_write(graph, index, place, produced, inputs)
        there.update(op.outputs)
    for index in graph.outputs:
        if index not in there:
            raise malformed(
                "output-not-produced",
                where,
                expected="outputs that some operator writes",
                got=_named(graph, index),
            )


def _is_there(tensor: Tensor) -> bool:
    return tensor.data is not None or tensor.variable or tensor.elements == 0


def _check_write(graph: Graph, index: int, place: str, produced: set[int], inputs: set[int]) -> None:
    if index in inputs:
        raise malformed(
            "writes-to-input", place, expected="outputs other than model inputs", got=_named(graph, index)
        )
    if graph.tensor(index).data is not None:
        raise malformed(
            "writes-to-constant", place, expected="outputs other than constants", got=_named(graph, index)
        )
    if index in produced:
        raise malformed(
            "produced-twice", place, expected="outputs not written before", got=_named(graph, index)
        )
    produced.add(index)


def _named(graph: Graph, index: int) -> str:
    return f"tensor {index} {graph.tensor(index).name[:80]!r}"

"""Bytes of a .tflite file -> Graph: the product's one reader, for bytes that nobody vouches for.

Pure Python and NumPy; no native loader sees the file. Weights are read-only views of ``data``. Everything a
native reader would follow is checked: every offset (``flatbuffer``), every index, the size of every
constant, quantisation (``tensors``), and that each tensor is produced once and before it is used
(``wiring``) and has the shape its operator gives it (``geometry``). The schema has no recursive part and
the bytes walked are counted, so time and memory are proportional to the file.

A file may hold several subgraphs; all are checked, the first (the one runtimes call) is returned. Anything
behind the FlatBuffer is left alone: TFLite Metadata appends a zip of label files there.

One FormatError code for each malformation; ``tests/attacks`` holds a file for each:

* header and bytes (``flatbuffer``): ``truncated wrong-magic offset-out-of-range misaligned vtable-malformed
  table-too-long field-outside-table vector-too-long string-unterminated string-not-utf8 too-many-entries
  too-much-sharing``
* model: ``unknown-version no-subgraph no-input no-output metadata-buffer-out-of-range external-buffer
  signature-out-of-range subgraph-out-of-range``
* tensors (``tensors``): ``unknown-type negative-shape rank-too-high tensor-too-large signature-mismatch
  buffer-out-of-range buffer-outside-file buffer-size-mismatch sparse-tensor variable-constant
  unsupported-quantization scale-not-positive scale-not-finite zero-point-out-of-range
  quantization-length-mismatch quantized-dimension-out-of-range``
* operators: ``unknown-operator operator-code-conflict operator-code-out-of-range tensor-out-of-range
  operator-inputs operator-outputs missing-input options-mismatch options-missing option-out-of-range
  unknown-option-value custom-without-name``
* order (``wiring``): ``used-before-produced produced-twice writes-to-constant writes-to-input duplicate-input
  output-not-produced``
* shapes and scales (``geometry``, ``scales``): ``shape-mismatch quantization-missing
  softmax-scale-degenerate``
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from firmware_bridge import schema
from firmware_bridge.flatbuffer import Source, Table, malformed
from firmware_bridge.geometry import check_geometry
from firmware_bridge.graph import Graph, Op, Tensor
from firmware_bridge.scales import check_scales
from firmware_bridge.tensors import read_buffers, read_tensor
from firmware_bridge.wiring import check_wiring

_CALLED = tuple(f"{role}_subgraph_index" for role in ("init", "then", "else", "cond", "body"))


def parse(data: bytes | bytearray | memoryview) -> Graph:
    """Return the main subgraph of a .tflite file.

    ``data`` is the whole file. Constants of the result are read-only views of it (keep ``data`` unchanged).
    Raises FormatError with one of the codes above and a one-line message; nothing else.

    >>> from firmware_bridge.graph import FormatError
    >>> try:
    ...     parse(b"not a model")
    ... except FormatError as error:
    ...     print(error.code)
    truncated
    """
    source = Source(data)
    model = source.root(schema.IDENTIFIER)
    version = model.get(schema.MODEL, "version")
    if version != schema.VERSION:
        raise malformed(
            "unknown-version",
            "the file",
            expected=f"schema version {schema.VERSION}",
            got=version,
            then="convert the model with a current TensorFlow",
        )
    if model.get(schema.MODEL, "external_buffers"):
        raise malformed(
            "external-buffer",
            "the file",
            expected="all weights in this file",
            got="external buffers",
            then="write the model as one file",
        )
    codes = [_read_code(table) for table in model.get(schema.MODEL, "operator_codes")]
    buffers = read_buffers(model)
    graphs = [_read_subgraph(table, codes, buffers) for table in model.get(schema.MODEL, "subgraphs")]
    _check_main(graphs)
    _check_calls(graphs)
    _check_signatures(model, graphs)
    model.get(schema.MODEL, "metadata_buffer")
    description = model.get(schema.MODEL, "description") or ""
    return replace(
        graphs[0], name=graphs[0].name or description, metadata=_read_metadata(model, buffers, source)
    )


def _read_code(table: Table) -> tuple[str, str]:
    old = table.get(schema.OPERATOR_CODE, "deprecated_builtin_code")
    new = table.get(schema.OPERATOR_CODE, "builtin_code")
    custom = table.get(schema.OPERATOR_CODE, "custom_code")
    # Schema 3 had only the byte-sized code; since 3a files have both, the old one saturating at 127.
    if old and new and old != min(new, 127):
        raise malformed(
            "operator-code-conflict",
            table.where,
            expected="both operator codes to agree",
            got=f"{old} and {new}",
        )
    code = max(old, new)
    if old < 0 or not 0 <= code < len(schema.OPERATORS):
        raise malformed(
            "unknown-operator",
            table.where,
            expected=f"a builtin operator (0 to {len(schema.OPERATORS) - 1})",
            got=f"{min(old, code)} / {code}",
            then="the file is damaged or newer than this reader",
        )
    name = schema.OPERATORS[code]
    if name == "CUSTOM" and not custom:
        raise malformed(
            "custom-without-name", table.where, expected="the name of the custom operator", got="none"
        )
    return name, custom or ""


def _read_subgraph(table: Table, codes: list[tuple[str, str]], buffers: list[np.ndarray]) -> Graph:
    tensors = tuple(
        read_tensor(entry, index, buffers)
        for index, entry in enumerate(table.get(schema.SUBGRAPH, "tensors"))
    )
    ops = tuple(
        _read_op(entry, index, codes, tensors)
        for index, entry in enumerate(table.get(schema.SUBGRAPH, "operators"))
    )
    graph = Graph(
        name=table.get(schema.SUBGRAPH, "name") or "",
        tensors=tensors,
        ops=ops,
        inputs=_indices(table, schema.SUBGRAPH, "inputs", tensors, optional=False),
        outputs=_indices(table, schema.SUBGRAPH, "outputs", tensors, optional=False),
    )
    check_wiring(graph, table.where)
    check_geometry(graph, table.where)
    check_scales(graph, table.where)
    return graph


def _read_op(table: Table, index: int, codes: list[tuple[str, str]], tensors: tuple[Tensor, ...]) -> Op:
    number = table.get(schema.OPERATOR, "opcode_index")
    if number >= len(codes):
        raise malformed(
            "operator-code-out-of-range",
            table.where,
            expected=f"an operator code below {len(codes)}",
            got=number,
        )
    name, custom = codes[number]
    table.where = f"{table.where} ({repr(custom)[:80] if custom else name})"
    inputs = _indices(table, schema.OPERATOR, "inputs", tensors, optional=True)
    outputs = _indices(table, schema.OPERATOR, "outputs", tensors, optional=False)
    _indices(table, schema.OPERATOR, "intermediates", tensors, optional=True)
    table.get(schema.OPERATOR, "mutating_variable_inputs")
    table.get(schema.OPERATOR, "custom_options")
    table.get(schema.OPERATOR, "builtin_options_2")
    if name in schema.SIGNATURES:
        _check_arity(table.where, schema.SIGNATURES[name], inputs, outputs)
    options = {"custom_code": custom} if name == "CUSTOM" else _read_options(table, name)
    return Op(index=index, name=name, inputs=inputs, outputs=outputs, options=options)


def _indices(
    table: Table, layout: Any, field: str, tensors: tuple[Tensor, ...], *, optional: bool
) -> tuple[int, ...]:
    found = table.integers(layout, field)
    lowest = -1 if optional else 0
    for value in found:
        if not lowest <= value < len(tensors):
            raise malformed(
                "tensor-out-of-range",
                table.where,
                expected=f"{field} between {lowest} and {len(tensors) - 1}",
                got=value,
            )
    return found


def _check_arity(
    where: str, signature: schema.Signature, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    if not signature.required <= len(inputs) <= signature.inputs:
        raise malformed(
            "operator-inputs",
            where,
            expected=f"{signature.required} to {signature.inputs} inputs",
            got=len(inputs),
        )
    if -1 in inputs[: signature.required]:
        raise malformed(
            "missing-input",
            where,
            expected=f"its first {signature.required} inputs",
            got=f"input {inputs.index(-1)} left out",
        )
    many = signature.outputs == schema.MANY
    if not many and len(outputs) != signature.outputs:
        raise malformed("operator-outputs", where, expected=f"{signature.outputs} outputs", got=len(outputs))


def _read_options(table: Table, name: str) -> dict[str, Any]:
    number = table.get(schema.OPERATOR, "builtin_options_type")
    value = table.get(schema.OPERATOR, "builtin_options")
    expected = schema.SIGNATURES[name].options if name in schema.SIGNATURES else ""
    if not expected:
        return {}
    got = schema.OPTION_TABLES[number] if number < len(schema.OPTION_TABLES) else f"number {number}"
    if got not in ("NONE", expected):
        raise malformed("options-mismatch", table.where, expected=expected, got=got)
    layout = schema.OPTIONS[expected]
    if value is None or got == "NONE":
        if name in schema.STRIDED:
            raise malformed(
                "options-missing", table.where, expected=f"{expected} with the strides", got="none"
            )
        return {field: _default(entry) for field, entry in layout.items()}
    options = {
        field: value.integers(layout, field) if entry.kind.startswith("[") else value.get(layout, field)
        for field, entry in layout.items()
    }
    _check_options(table.where, name, options)
    return options


def _default(entry: Any) -> Any:
    if entry.enum is not None:
        return entry.enum.names[entry.default]
    return () if entry.kind.startswith("[") else entry.default


def _check_options(where: str, name: str, options: dict[str, Any]) -> None:
    for field, value in options.items():
        positive = name in schema.STRIDED and field.startswith(("stride", "dilation", "filter"))
        if positive and not 1 <= value <= 65_536:
            raise malformed("option-out-of-range", where, expected=f"{field} between 1 and 65536", got=value)
        if isinstance(value, float) and not np.isfinite(value):
            raise malformed("option-out-of-range", where, expected=f"a finite {field}", got=value)


def _check_main(graphs: list[Graph]) -> None:
    if not graphs:
        raise malformed(
            "no-subgraph", "the file", expected="a subgraph", got="none", then="the file holds no model"
        )
    for what, found in (("input", graphs[0].inputs), ("output", graphs[0].outputs)):
        if not found:
            raise malformed(f"no-{what}", "the file", expected=f"a model with an {what}", got="none")


def _check_calls(graphs: list[Graph]) -> None:
    for graph in graphs:
        for op in graph.ops:
            for field in _CALLED:
                if not 0 <= op.options.get(field, 0) < len(graphs):
                    raise malformed(
                        "subgraph-out-of-range",
                        f"operator {op.index} ({op.name})",
                        expected=f"{field} below {len(graphs)}",
                        got=op.options[field],
                    )


def _check_signatures(model: Table, graphs: list[Graph]) -> None:
    for table in model.get(schema.MODEL, "signature_defs"):
        table.get(schema.SIGNATURE_DEF, "signature_key")
        number = table.get(schema.SIGNATURE_DEF, "subgraph_index")
        tensors = len(graphs[number].tensors) if number < len(graphs) else 0
        for entry in (
            *table.get(schema.SIGNATURE_DEF, "inputs"),
            *table.get(schema.SIGNATURE_DEF, "outputs"),
        ):
            entry.get(schema.TENSOR_MAP, "name")
            index = entry.get(schema.TENSOR_MAP, "tensor_index")
            if index >= tensors:
                raise malformed(
                    "signature-out-of-range",
                    entry.where,
                    expected=f"a tensor below {tensors} of subgraph {number}",
                    got=index,
                )


def _read_metadata(model: Table, buffers: list[np.ndarray], source: Source) -> dict[str, bytes]:
    found = {}
    for table in model.get(schema.MODEL, "metadata"):
        index = table.get(schema.METADATA, "buffer")
        if index >= len(buffers):
            raise malformed(
                "metadata-buffer-out-of-range",
                table.where,
                expected=f"a buffer below {len(buffers)}",
                got=index,
            )
        source.charge(buffers[index].nbytes, table.where)
        found[table.get(schema.METADATA, "name") or ""] = buffers[index].tobytes()
    return found

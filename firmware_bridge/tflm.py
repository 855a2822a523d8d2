"""For those who stay with TensorFlow Lite Micro: the model as a C array, its operators as a resolver, its arena measured.

The arena is what TensorFlow Lite Micro's own interpreter says it took, in a child process (``tflm_probe``), because
the wheel ends the process on some models. It counts this machine's 8-byte pointers: a 32-bit core needs a little less.
"""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

from firmware_bridge.graph import Graph, UnsupportedError

WHEEL = "tflite-micro==0.dev20251210174019"
_BYTES_A_LINE = 16

# Words of schema names that are not simply capitalised in MicroMutableOpResolver's Add methods.
_WORDS = {
    "2D": "2D",
    "ND": "Nd",
    "PADV2": "PadV2",
    "CUMSUM": "CumSum",
    "MATMUL": "MatMul",
    "LSTM": "LSTM",
    "N": "N",
}
_KNOWN = frozenset("""
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV
    DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
    GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOG_SOFTMAX LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_MAX RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH
    SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    """.split())


@dataclass(frozen=True)
class Arena:
    """Bytes TensorFlow Lite Micro takes from the tensor arena, or None and why they are unknown."""

    total: int | None
    tensors: int | None  # planned memory of activations ("head")
    persistent: int | None  # everything else ("tail")
    reason: str | None = None


def list_operators(graph: Graph) -> dict[str, int]:
    """Return how often each operator occurs, by schema name, in order of first use.

    Raises UnsupportedError ``tflm-operator``: TensorFlow Lite Micro has no kernel for it.
    """
    counts = Counter(op.name for op in graph.ops)
    for op in graph.ops:
        if op.name not in _KNOWN:
            name = op.options.get("custom_code", op.name) if op.name == "CUSTOM" else op.name
            tensor = graph.tensor(op.outputs[0]).name if op.outputs else "?"
            raise UnsupportedError(
                f"operator {op.index} {name} (makes {tensor!r}): TensorFlow Lite Micro has no kernel for it; "
                "change the model, or register your own with AddCustom",
                code="tflm-operator",
            )
    return dict(counts)


def add_method(operator: str) -> str:
    """Return MicroMutableOpResolver's method for a schema name.

    >>> add_method("DEPTHWISE_CONV_2D"), add_method("SPACE_TO_BATCH_ND"), add_method("RELU6")
    ('AddDepthwiseConv2D', 'AddSpaceToBatchNd', 'AddRelu6')
    """
    return "Add" + "".join(_WORDS.get(word, word.capitalize()) for word in operator.split("_"))


def measure_arena(model: bytes, graph: Graph, *, timeout_s: float = 60) -> Arena:
    """Ask TensorFlow Lite Micro, in a child process, what it takes for ``model``.

    Never raises on account of the wheel: missing, refusing, aborting and hanging are reasons in the result.
    """
    room = 4 * sum(tensor.bytes for tensor in graph.tensors) + (1 << 22)
    variables = sum(op.name == "VAR_HANDLE" for op in graph.ops)
    command = [sys.executable, "-m", "firmware_bridge.tflm_probe", str(min(room, 1 << 30)), str(variables)]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return _unknown(f"TensorFlow Lite Micro had not finished after {timeout_s:g} s")
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode == 3:
        return _unknown(
            f"the wheel is not installed: pip install --no-deps {WHEEL} (CPython 3.10-3.13, Linux x86-64)"
        )
    found = {m[1]: int(m[2]) for m in re.finditer(r"Arena allocation (total|head|tail) (\d+) bytes", said)}
    if done.returncode or len(found) != 3:
        return _unknown(f"TensorFlow Lite Micro {_ended(done.returncode)}: {_what_it_said(said)}")
    return Arena(found["total"], found["head"], found["tail"])


def make_files(model: bytes, graph: Graph, arena: Arena, *, name: str = "net") -> dict[str, str]:
    """Return {file name: text}: the array (C and C++), the resolver header (C++), a README.

    ``name`` is a C identifier in lower case, the prefix of every name. The same model gives the same bytes.
    """
    operators = list_operators(graph)
    return {
        f"{name}_model.h": _array_header(model, name),
        f"{name}_model.c": _array(model, name),
        f"{name}_ops.h": _resolver(operators, arena, name),
        "README.md": _readme(operators, arena, name),
    }


def _unknown(reason: str) -> Arena:
    return Arena(None, None, None, reason)


def _ended(status: int) -> str:
    if status < 0:
        return f"ended the process with {signal.Signals(-status).name}"
    return f"refused the model (status {status})" if status else "said nothing of its arena"


def _what_it_said(said: str) -> str:
    """Return TensorFlow Lite Micro's own last lines, without Python's traceback behind them."""
    native, _, _ = said.partition("Traceback (most recent call last)")
    lines = [line.strip() for line in (native.strip() or said).splitlines() if line.strip()]
    return ("; ".join(lines[-2:]) or "no message")[:300].replace("*/", "* /")


def _array_header(model: bytes, name: str) -> str:
    upper = name.upper()
    return f"""\
/* The model as bytes; SHA-256 {hashlib.sha256(model).hexdigest()}. */
#ifndef {upper}_MODEL_H
#define {upper}_MODEL_H

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_MODEL_BYTES {len(model)}u
extern const unsigned char {name}_model[{upper}_MODEL_BYTES];

#ifdef __cplusplus
}}
#endif

#endif
"""


def _array(model: bytes, name: str) -> str:
    lines = (model[at : at + _BYTES_A_LINE] for at in range(0, len(model), _BYTES_A_LINE))
    rows = "\n".join("    " + " ".join(f"{byte}," for byte in line) for line in lines)
    return f"""\
#include "{name}_model.h"

/* TensorFlow Lite Micro reads the array where it lies and wants it aligned. */
#if defined(__GNUC__)
__attribute__((aligned(16)))
#endif
const unsigned char {name}_model[{name.upper()}_MODEL_BYTES] = {{
{rows}
}};
"""


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_") if part)


def _resolver(operators: dict[str, int], arena: Arena, name: str) -> str:
    upper, camel = name.upper(), _camel(name)
    calls = "\n".join(
        f"  TF_LITE_ENSURE_STATUS(resolver.{add_method(operator)}());" for operator in operators
    )
    size = (
        f"/* Arena not measured: {arena.reason} */"
        if arena.total is None
        else f"/* Taken from the tensor arena on a 64-bit host; a 32-bit core needs a little less. */\n"
        f"constexpr int k{camel}ArenaBytes = {arena.total};"
    )
    return f"""\
/* Exactly the operators of the model: nothing else of TensorFlow Lite Micro's kernels is linked. */
#ifndef {upper}_OPS_H
#define {upper}_OPS_H

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

{size}

using {camel}OpResolver = tflite::MicroMutableOpResolver<{len(operators)}>;

inline TfLiteStatus {camel}RegisterOps({camel}OpResolver& resolver) {{
{calls}
  return kTfLiteOk;
}}

#endif
"""


def _readme(operators: dict[str, int], arena: Arena, name: str) -> str:
    camel = _camel(name)
    rows = "\n".join(
        f"| {operator} | {count} | {add_method(operator)} |" for operator, count in operators.items()
    )
    taken = (
        f"not measured: {arena.reason}"
        if arena.total is None
        else f"{arena.total} bytes ({arena.tensors} of activations, {arena.persistent} persistent), measured by "
        "TensorFlow Lite Micro's interpreter on a 64-bit host; the persistent part is smaller on a 32-bit core"
    )
    return f"""\
# {name}, for TensorFlow Lite Micro

Tensor arena: {taken}.

| operator | how many | resolver method |
|---|---|---|
{rows}

```cpp
#include "{name}_model.h"
#include "{name}_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"

alignas(16) static uint8_t arena[{f"k{camel}ArenaBytes" if arena.total is not None else "ARENA_BYTES"}];
{camel}OpResolver resolver;
{camel}RegisterOps(resolver);
tflite::MicroInterpreter interpreter(tflite::GetModel({name}_model), resolver, arena, sizeof arena);
```
"""

"""Damage small models in a hundred thousand ways and read them: ``python tests/fuzz_tflite.py --mutations
100000``.

Each case is cut, flipped, spliced, or has integers and offsets overwritten. It must end in a FormatError
with a documented code and a one-line message, or in a graph that holds every invariant listed in
``check_graph`` and that LiteRT's own schema reader reads the same way. No case may take longer than
``--seconds`` or let the process grow by 1 GB. Prints one JSON line; a failing case is kept in ``--keep``
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from firmware_bridge import attachments, schema, tflite  # noqa: E402
from firmware_bridge.attachments import read_labels  # noqa: E402
from firmware_bridge.graph import FormatError, Graph, Tensor  # noqa: E402
from firmware_bridge.summary import summarize  # noqa: E402
from firmware_bridge.tflite import parse  # noqa: E402
from tiny_tflite import append_zip, classifier, edges, fbs, label_metadata, pack, residual  # noqa: E402

EDGES = (
    0,
    1,
    2,
    3,
    4,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
GROWTH_BYTES = 1 << 30

Random = np.random.Generator


def seeds() -> dict[str, bytes]:
    """Return the well-formed files that are damaged."""
    labelled = classifier()
    labelled.metadata("TFLITE_METADATA", label_metadata())
    placed = pack(classifier())
    return {
        "classifier": pack(classifier()),
        "residual": pack(residual()),
        "edges": pack(edges()),
        "labelled": append_zip(pack(labelled), {"labels.txt": b"mel\nnv\n"}, compress=True),
        "appended": placed + bytes(64),
    }


def cut(data: bytearray, rng: Random) -> bytearray:
    return data[: int(rng.integers(0, len(data) + 1))]


def flip_bits(data: bytearray, rng: Random) -> bytearray:
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return data


def overwrite_bytes(data: bytearray, rng: Random) -> bytearray:
    at, count = int(rng.integers(len(data))), int(rng.integers(1, 17))
    data[at : at + count] = rng.integers(0, 256, len(data[at : at + count]), np.uint8).tobytes()
    return data


def splice(data: bytearray, rng: Random) -> bytearray:
    source, target = (int(rng.integers(len(data))) for _ in range(2))
    count = int(rng.integers(1, 65))
    data[target : target + count] = data[source : source + count]
    return data


def move(data: bytearray, rng: Random) -> bytearray:
    at, count = int(rng.integers(len(data))), int(rng.integers(1, 33))
    if rng.random() < 0.5:
        del data[at : at + count]
    else:
        data[at:at] = bytes(count)
    return data


def attack_integer(data: bytearray, rng: Random) -> bytearray:
    width = int(rng.choice([1, 2, 4, 8]))
    at = int(rng.integers(max(len(data) - width, 1))) // width * width
    value = EDGES[int(rng.integers(len(EDGES)))]
    data[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return data


def nudge_integer(data: bytearray, rng: Random) -> bytearray:
    at = int(rng.integers(max(len(data) - 4, 1))) // 4 * 4
    value = int.from_bytes(data[at : at + 4], "little") + int(rng.integers(-8, 9))
    data[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    return data


def redirect_offset(data: bytearray, rng: Random) -> bytearray:
    """Let a word that may be an offset point at another part of the file."""
    at, target = (int(rng.integers(max(len(data) - 4, 1))) // 4 * 4 for _ in range(2))
    data[at : at + 4] = ((target - at) & 0xFFFFFFFF).to_bytes(4, "little")
    return data


MUTATORS: tuple[Callable[[bytearray, Random], bytearray], ...] = (
    cut,
    flip_bits,
    overwrite_bytes,
    splice,
    move,
    attack_integer,
    attack_integer,
    nudge_integer,
    redirect_offset,
    redirect_offset,
)


def mutate(data: bytes, rng: Random) -> bytes:
    """Return ``data`` after one (mostly) to four random mutations."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        if changed:
            changed = MUTATORS[int(rng.integers(len(MUTATORS)))](changed, rng)
    return bytes(changed)


def documented_codes() -> frozenset[str]:
    """Return every code that the reader's documentation names."""
    words = " ".join(
        re.findall(r"``([^`]+)``", str(tflite.__doc__).split("One FormatError code")[1], re.DOTALL)
    )
    return frozenset(words.split()) | frozenset(re.findall(r"``(zip-[a-z-]+)``", str(attachments.__doc__)))


def check_graph(graph: Graph, data: bytes) -> None:
    """Assert what everybody who gets a graph relies on."""
    count, memory = len(graph.tensors), np.frombuffer(data, np.uint8)
    for index, tensor in enumerate(graph.tensors):
        assert tensor.index == index
        check_tensor(tensor, memory)
    assert graph.inputs and graph.outputs
    assert all(0 <= index < count for index in (*graph.inputs, *graph.outputs))
    written: set[int] = set()
    there = {t.index for t in graph.tensors if t.data is not None or t.variable or t.elements == 0}
    there |= set(graph.inputs)
    for op in graph.ops:
        assert op.name in schema.OPERATORS
        assert all(index == -1 or index in there for index in op.inputs)
        assert all(0 <= index < count and index not in written for index in op.outputs)
        assert not any(graph.tensor(index).data is not None or index in graph.inputs for index in op.outputs)
        written |= set(op.outputs)
        there |= written
        check_options(op.options)
    assert set(graph.outputs) <= there
    summary = summarize(graph)
    assert summary.macs >= 0 and sum(summary.operators.values()) == len(graph.ops)
    json.dumps(summary.operators)


def check_tensor(tensor: Tensor, memory: np.ndarray) -> None:
    assert all(isinstance(n, int) and n >= 0 for n in tensor.shape) and len(tensor.shape) <= 8
    assert 0 <= tensor.bytes <= 2**31 and tensor.dtype in schema.TENSOR_TYPES
    assert not tensor.signature or len(tensor.signature) == len(tensor.shape)
    if tensor.data is not None:
        assert not tensor.data.flags.writeable or tensor.dtype == "bool"
        assert tensor.data.nbytes in (tensor.bytes, memory.size) or tensor.dtype in (
            "string",
            "resource",
            "variant",
        )
        assert tensor.dtype == "bool" or np.shares_memory(tensor.data, memory)
    if tensor.quantization is not None:
        scale, zero = tensor.quantization.scale, tensor.quantization.zero_point
        assert scale.size == zero.size > 0 and np.isfinite(scale).all() and (scale > 0).all()
        assert scale.size == 1 or scale.size == tensor.shape[tensor.quantization.axis]
        lowest, highest = schema.INTEGER_RANGES.get(tensor.dtype, (-(2**63), 2**63 - 1))
        assert zero.min() >= lowest and zero.max() <= highest


def check_options(options: Any) -> None:
    for name, value in options.items():
        assert isinstance(value, (int, float, bool, str, tuple)), name
        assert not name.startswith(("stride_", "dilation_", "filter_")) or value >= 1


def compare(graph: Graph, data: bytes) -> None:
    """Assert that LiteRT's schema reader sees the same model."""
    model = fbs.Model.GetRootAs(data, 0)
    main = model.Subgraphs(0)
    assert main.TensorsLength() == len(graph.tensors) and main.OperatorsLength() == len(graph.ops)
    assert (
        tuple(integers(main, "Inputs")) == graph.inputs and tuple(integers(main, "Outputs")) == graph.outputs
    )
    for tensor in graph.tensors:
        compare_tensor(tensor, main.Tensors(tensor.index), model)
    for op in graph.ops:
        theirs = main.Operators(op.index)
        code = model.OperatorCodes(theirs.OpcodeIndex())
        assert schema.OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] == op.name
        assert (
            tuple(integers(theirs, "Inputs")) == op.inputs
            and tuple(integers(theirs, "Outputs")) == op.outputs
        )


def compare_tensor(tensor: Tensor, theirs: Any, model: Any) -> None:
    assert tuple(integers(theirs, "Shape")) == tensor.shape
    assert schema.TENSOR_TYPES[theirs.Type()] == tensor.dtype
    assert (theirs.Name() or b"").decode() == tensor.name
    if tensor.data is not None and tensor.dtype != "bool":
        buffer = model.Buffers(theirs.Buffer())
        stored = buffer.DataAsNumpy() if buffer.DataLength() else None
        assert stored is None or stored.tobytes() == tensor.data.tobytes()
    if tensor.quantization is not None:
        assert np.array_equal(theirs.Quantization().ScaleAsNumpy(), tensor.quantization.scale)
        assert np.array_equal(theirs.Quantization().ZeroPointAsNumpy(), tensor.quantization.zero_point)


def integers(table: Any, field: str) -> list[int]:
    return [int(getattr(table, field)(i)) for i in range(getattr(table, f"{field}Length")())]


def read_case(data: bytes, codes: frozenset[str]) -> str:
    """Return the FormatError code or ``accepted``; AssertionError or any other exception is a defect."""
    try:
        graph = parse(data)
        check_graph(graph, data)
        compare(graph, data)
        labels = read_labels(data, graph)
        assert labels is None or all(isinstance(label, str) for label in labels)
    except FormatError as error:
        message = str(error)
        assert error.code in codes, error.code
        assert message.isprintable() and len(message) < 1000, message
        return error.code
    return "accepted"


def fuzz(mutations: int, seed: int, *, seconds: float = 5.0, keep: Path | None = None) -> dict[str, Any]:
    """Read ``mutations`` damaged files and return what came of them; raises on the first defect."""
    files, codes, outcomes = list(seeds().values()), documented_codes(), Counter[str]()
    rng, slowest = np.random.default_rng(seed), 0.0
    for data in files:
        assert read_case(data, codes) == "accepted"
    for number in range(mutations):
        case = mutate(files[number % len(files)], rng)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        start = time.perf_counter()
        try:
            outcomes[read_case(case, codes)] += 1
        except BaseException:
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"seed{seed}-case{number}.tflite").write_bytes(case)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - start)
    return {
        "mutations": mutations,
        "seed": seed,
        "accepted": outcomes.pop("accepted", 0),
        "refused": dict(outcomes.most_common()),
        "slowest_ms": round(slowest * 1e3, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def limit_memory() -> None:
    """Let the address space of this process grow by 1 GB at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="longest time for one case")
    parser.add_argument("--keep", type=Path, help="folder for the first failing case")
    given = parser.parse_args()
    limit_memory()
    print(json.dumps(fuzz(given.mutations, given.seed, seconds=given.seconds, keep=given.keep)))


if __name__ == "__main__":
    main()

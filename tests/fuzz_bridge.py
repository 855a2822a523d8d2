"""Damage real models in a hundred thousand ways and give them to the whole bridge: ``python tests/fuzz_bridge.py
--mutations 100000 MODEL.tflite…``.

Most mutations hit what is not weights: tables, offsets, shapes, options, quantisation. Each case must end in a named
error of one line or in a graph that LiteRT's own schema reader reads the same way (``fuzz_tflite``); of those graphs
``--generate`` go on through plan and code generation, which must give C or a named error, and ``--run`` of the C are
compiled and must give what LiteRT's reference kernels give for the damaged file. No case may take more processor time
than ``--seconds`` or let the process grow by 1 GB. Prints one JSON line; a failing case is kept in ``--keep`` and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import fuzz_tflite as small  # noqa: E402
from firmware_bridge.graph import BridgeError  # noqa: E402
from firmware_bridge.network import lcg_inputs, read_network  # noqa: E402
from firmware_bridge.project import network_files  # noqa: E402
from firmware_bridge.tflite import parse  # noqa: E402

IN_PLACE = (
    small.flip_bits,
    small.overwrite_bytes,
    small.splice,
    small.attack_integer,
    small.attack_integer,
    small.nudge_integer,
    small.redirect_offset,
)
WHOLE_FILE = 0.2  # of the cases are damaged anywhere, weights included, and by cuts and insertions too
DIED, DIFFERENT = 3, 4


@dataclass(frozen=True)
class Seed:
    """A well-formed file and the places of its bytes that are no weights."""

    name: str
    data: bytes
    structure: np.ndarray


@dataclass(frozen=True)
class Depth:
    """How many of the accepted cases go on to code generation, and of those to a run."""

    generate: int
    run: int


def make_seed(name: str, data: bytes) -> Seed:
    memory = np.frombuffer(data, np.uint8)
    kept = np.ones(memory.size, bool)
    for tensor in parse(data).tensors:
        if tensor.data is not None and tensor.bytes >= 64:
            start = tensor.data.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
            kept[start : start + tensor.bytes] = False
    return Seed(name, data, np.flatnonzero(kept))


def mutate(seed: Seed, rng: np.random.Generator) -> bytes:
    if rng.random() < WHOLE_FILE:
        return small.mutate(seed.data, rng)
    changed = np.frombuffer(seed.data, np.uint8).copy()
    structure = bytearray(changed[seed.structure].tobytes())
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        length = len(structure)
        structure = IN_PLACE[int(rng.integers(len(IN_PLACE)))](structure, rng)
        structure = (structure + bytes(length))[:length]
    changed[seed.structure] = np.frombuffer(structure, np.uint8)
    return changed.tobytes()


def generate(data: bytes) -> str:
    """Return the error's code or ``C``."""
    try:
        network_files(read_network(data))
    except BridgeError as error:
        message = str(error)
        assert error.code and message.isprintable() and len(message) < 1000, message
        return error.code
    return "C"


def run_apart(data: bytes) -> str:
    """Compile and run in a child process, where LiteRT may die of a damaged file: what came of it."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, 0)
        status = DIED
        try:
            from firmware_bridge.running import check_network

            network = read_network(data)
            inputs = [lcg_inputs(network, seed) for seed in range(4)]
            status = 0 if check_network(network, "host", inputs)[1].exact else DIFFERENT
        except BridgeError as error:
            status = 2 if error.code in ("reference-failed", "litert-missing") else DIED
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended < 0:
        return "reference died"
    outcomes = {0: "exact", 2: "reference refused", DIFFERENT: "different"}
    return outcomes.get(ended, "died")


def give_up(number: int, frame: Any) -> None:
    raise TimeoutError("a case took too long")


def fuzz(
    seeds: list[Seed], mutations: int, number: int, depth: Depth, *, seconds: float, keep: Path | None
) -> dict[str, Any]:
    """Read ``mutations`` damaged files and return what came of them; raises on the first defect."""
    rng, codes = np.random.default_rng(number), small.documented_codes()
    read, made, ran = Counter[str](), Counter[str](), Counter[str]()
    slowest, started = 0.0, time.perf_counter()
    signal.signal(signal.SIGPROF, give_up)
    for case_number in range(mutations):
        case = mutate(seeds[case_number % len(seeds)], rng)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        start = time.perf_counter()
        try:
            outcome = small.read_case(case, codes)
            slowest = max(slowest, time.perf_counter() - start)
            read[outcome] += 1
            if outcome == "accepted" and sum(made.values()) < depth.generate:
                signal.setitimer(signal.ITIMER_PROF, 12 * seconds)
                result = generate(case)
                made[result] += 1
                signal.setitimer(signal.ITIMER_PROF, 0)
                if result == "C" and sum(ran.values()) < depth.run:
                    ran[run_apart(case)] += 1
                    assert not {"different", "died"} & set(ran), dict(ran)
        except BaseException:
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"seed{number}-case{case_number}.tflite").write_bytes(case)
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return {
        "models": [seed.name for seed in seeds],
        "mutations": mutations,
        "seed": number,
        "accepted": read.pop("accepted", 0),
        "refused": dict(read.most_common()),
        "generated": dict(made.most_common()),
        "ran": dict(ran.most_common()),
        "slowest_read_ms": round(slowest * 1e3, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*", help="seeds; without any, small ones made here")
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generate", type=int, default=1000, help="accepted cases that go on to C")
    parser.add_argument(
        "--run", type=int, default=0, help="generated cases that are compiled, run and compared"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        help="most processor time to read one case; 12 times to generate",
    )
    parser.add_argument("--keep", type=Path, help="folder for the first failing case")
    given = parser.parse_args()
    files = {path.name: path.read_bytes() for path in given.models} or small.seeds()
    seeds = [make_seed(name, data) for name, data in files.items()]
    small.limit_memory()
    depth = Depth(given.generate, given.run)
    print(json.dumps(fuzz(seeds, given.mutations, given.seed, depth, seconds=given.seconds, keep=given.keep)))


if __name__ == "__main__":
    main()

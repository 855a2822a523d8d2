"""A network on the host or an emulated board: its outputs, its instructions, its sizes, compared with the reference."""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import numpy as np

from firmware_bridge import board as boards
from firmware_bridge.board import Board, Build
from firmware_bridge.codegen import build_layers, count_weights
from firmware_bridge.graph import BoardError
from firmware_bridge.network import Network, kept_apart
from firmware_bridge.places import Places
from firmware_bridge.project import network_files, write_sources
from firmware_bridge.reference import run_reference

Inputs = Sequence[Sequence[np.ndarray]]
_MOST_INPUT_BYTES = 160_000  # in one program: the smallest board has 512 kB for code, weights and inputs


@dataclass(frozen=True)
class Sizes:
    """Bytes of a linked program: what inference executes (its layer descriptions included), the weights beside it, and the
    RAM it keeps."""

    text: int
    weights: int
    arena: int
    state: int  # RAM beside the arena: where in the schedule an inference is


@dataclass(frozen=True)
class Run:
    """What running a network said.

    ``outputs``: for each input {tensor index: value}. ``instructions`` of one inference and ``stack_bytes`` are None on
    the host; ``step_instructions`` int64 [steps] where they were asked for.
    """

    board: str
    outputs: tuple[Mapping[int, np.ndarray], ...]
    instructions: int | None
    stack_bytes: int | None
    sizes: Sizes
    step_instructions: np.ndarray | None = None


@dataclass(frozen=True)
class Comparison:
    """Outputs against the reference: values compared, and {tensor index: wrong values} where any is wrong."""

    inputs: int
    values: int
    wrong: Mapping[int, int]

    @property
    def exact(self) -> bool:
        return not self.wrong


def run_network(
    network: Network,
    board: str,
    inputs: Inputs,
    *,
    tensors: Sequence[int] | None = None,
    by_step: bool = False,
    timeout_s: float = 300,
    **build_options,
) -> Run:
    """Build ``network`` for ``board`` and run it on ``inputs`` (one array for each of the network's inputs, a run).

    ``tensors``: what to return, the outputs if None; others need a plan that keeps them (``kept_apart``).
    ``by_step``: also count each step. ``build_options`` go to ``board.build``. Raises BoardError.
    """
    place = boards.find_board(board)
    wanted = list(dict.fromkeys(network.graph.outputs if tensors is None else tensors))
    outputs: list[Mapping[int, np.ndarray]] = []
    outcome, made = None, None
    for group in _groups(network, place, inputs):
        with _built(network, place, group, wanted, by_step=by_step, **build_options) as made:
            outcome = boards.execute(made, timeout_s=timeout_s)
        outputs += _read_outputs(network, wanted, outcome.output, len(group))
    if outcome is None or made is None:
        raise BoardError("expected at least one input to run", code="no-input")
    emulated = place.emulated
    return Run(
        board=board,
        outputs=tuple(outputs),
        instructions=outcome.values["instructions"] if emulated else None,
        stack_bytes=outcome.values["stack"] if emulated else None,
        sizes=measure_sizes(made, network),
        step_instructions=_read_steps(network, outcome.output) if by_step and emulated else None,
    )


def check_network(network: Network, board: str, inputs: Inputs, **build_options) -> tuple[Run, Comparison]:
    """Run ``network`` and compare it with LiteRT's reference kernels, value by value.

    The shipped build gives the outputs; a check build, which keeps every intermediate tensor, all of them.
    Raises BoardError, and BridgeError ``litert-missing`` or ``reference-failed``.
    """
    shipped = run_network(network, board, inputs, **build_options)
    apart = kept_apart(network)
    kept = [index for index, rows in apart.plan.flow.maps.items() if not rows.running]
    checked = run_network(apart, board, inputs, tensors=kept, **build_options)
    wrong: dict[int, int] = {}
    values = 0
    wanted = list(dict.fromkeys([*kept, *network.graph.outputs]))
    references = run_reference(network.model, network.whole, network.graph, inputs, tensors=wanted)
    for right, ours, all_ours in zip(references, shipped.outputs, checked.outputs, strict=True):
        for made in (ours, all_ours):
            for index, value in made.items():
                values += value.size
                different = int(np.count_nonzero(value.ravel() != right[index].ravel()))
                if different:
                    wrong[index] = wrong.get(index, 0) + different
    return shipped, Comparison(len(shipped.outputs), values, wrong)


def profile_stages(
    network: Network, board: str, inputs: Sequence[np.ndarray], **build_options
) -> list[dict[str, object]]:
    """Return, for each stage, its operator, output shape, steps and instructions (None on the host).

    Each step is counted apart, so a stage's sum carries up to a timer tick (32 to 50 instructions) a step.
    """
    counted = run_network(network, board, [inputs], by_step=True, **build_options).step_instructions
    found = []
    for number, stage in enumerate(network.plan.flow.stages):
        op = next(op for op in network.graph.ops if op.index == stage.op)
        mine = [time for time, step in enumerate(network.plan.schedule.steps) if step.stage == number]
        found.append(
            {
                "operator": stage.name,
                "tensor": network.graph.tensor(op.outputs[0]).name,
                "shape": list(network.graph.tensor(op.outputs[0]).shape),
                "steps": len(mine),
                "instructions": None if counted is None else int(counted[mine].sum()),
            }
        )
    return found


def measure_sizes(build: Build, network: Network, *, name: str = "net") -> Sizes:
    """Return what inference takes in ``build``, from the linker's map; the harness around it is left out."""
    constant = state = 0
    for piece in build.pieces:
        stem = piece.source.split("-", 1)[-1].removesuffix(".o")
        own = stem in (name, f"{name}_data")
        if piece.section.startswith((".text", ".rodata")) and (own or _is_needed(piece.source, stem)):
            constant += piece.size
        elif own and piece.section.startswith((".bss", ".data")):
            state += piece.size
    weights, arena = count_weights(build_layers(network.graph, network.plan)), network.plan.arena_bytes
    return Sizes(constant - weights, weights, arena, max(state - arena, 0))


def _is_needed(source: str, stem: str) -> bool:
    """Whether an object file is a kernel or, out of an archive, memcpy, memset or the compiler's arithmetic."""
    return stem.startswith("ed_") or "(" in source and ("mem" in source or source.startswith("libgcc"))


def _groups(network: Network, place: Board, inputs: Inputs) -> Iterator[Inputs]:
    """Cut ``inputs`` into as many programs as the board's memory needs."""
    each = sum(network.graph.tensor(index).bytes for index in network.graph.inputs)
    most = max(1, _MOST_INPUT_BYTES // each) if place.emulated else 64
    for start in range(0, len(inputs), most):
        yield inputs[start : start + most]


@contextmanager
def _built(
    network: Network, place: Board, inputs: Inputs, wanted: Sequence[int], *, by_step: bool, **options
) -> Iterator[Build]:
    with tempfile.TemporaryDirectory(prefix="firmware-") as name:
        folder = Path(name)
        stored = b"".join(array.tobytes() for arrays in inputs for array in arrays)
        (folder / "inputs.bin").write_bytes(stored)
        shipped = all(index in network.graph.outputs for index in wanted)
        files = network_files(network, open_arena=not shipped)
        files["harness.c"] = _harness(network, len(inputs), wanted, folder / "inputs.bin", by_step=by_step)
        sources = write_sources(files, folder / "c")
        yield boards.build(sources, place, out=folder / "out", include=[folder / "c"], **options)


def _harness(network: Network, runs: int, wanted: Sequence[int], stored: Path, *, by_step: bool) -> str:
    """The program around the network: puts each input in, runs, writes the wanted tensors, then what it cost."""
    graph = network.graph
    puts, at = [], 0
    each = sum(graph.tensor(index).elements for index in graph.inputs)
    for number, index in enumerate(graph.inputs):
        size = graph.tensor(index).elements
        puts.append(f"        memcpy(net_input{_suffix(number)}(), inputs + {each} * i + {at}, {size});")
        at += size
    writes = [f"        ed_port_write({_pointer(network, t)}, {graph.tensor(t).elements});" for t in wanted]
    path = str(stored).replace("\\", "\\\\").replace('"', '\\"')
    parts = {
        "PUT": "\n".join(puts),
        "RUN": _COUNT_STEPS if by_step else "        net_run();",
        "WRITE": "\n".join(writes),
        "RUNS": str(runs),
        "STORED": path,
    }
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], _HARNESS)


_HARNESS = """#include "net.h"
#include "port.h"

#include <string.h>

extern const int8_t inputs[];
__asm__(".pushsection .rodata\\n.balign 8\\n.global inputs\\ninputs:\\n.incbin \\"@STORED@\\"\\n.popsection");

static uint32_t cost[NET_STEPS];

int main(void) {
    uint32_t instructions = 0, stack = 0;
    ed_port_init();
    for (int32_t i = 0; i < @RUNS@; ++i) {
@PUT@
        ed_port_stack_paint();
        ed_port_count_start();
@RUN@
        instructions = ed_port_count();
        stack = ed_port_stack_used() > stack ? ed_port_stack_used() : stack;
@WRITE@
    }
    ed_port_write(cost, sizeof cost);
    ed_port_print("\\n");
    ed_port_report("instructions", instructions);
    ed_port_report("stack", stack);
    return 0;
}
"""

_COUNT_STEPS = """        for (int32_t step = 0, more = 1; more; ++step) {
            ed_port_count_start();
            more = net_step();
            cost[step] = ed_port_count();
        }"""


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def _pointer(network: Network, tensor: int) -> str:
    """C: where the harness finds ``tensor`` after a run."""
    if tensor in network.graph.outputs:
        return f"net_output{_suffix(network.graph.outputs.index(tensor))}()"
    return f"net_arena() + {Places(network.graph, network.plan).plan.block(tensor).offset}"


def _read_outputs(
    network: Network, wanted: Sequence[int], said: bytes, runs: int
) -> list[Mapping[int, np.ndarray]]:
    tensors = [network.graph.tensor(index) for index in wanted]
    each = sum(tensor.elements for tensor in tensors)
    if len(said) < runs * each:
        raise BoardError(f"expected {runs * each} bytes of output, got {len(said)}", code="output-short")
    found: list[Mapping[int, np.ndarray]] = []
    for run in range(runs):
        at, values = run * each, {}
        for tensor in tensors:
            raw = np.frombuffer(said, tensor.dtype, tensor.elements, at)
            values[tensor.index] = raw.reshape(tensor.shape)
            at += tensor.elements
        found.append(values)
    return found


def _read_steps(network: Network, said: bytes) -> np.ndarray:
    """int64 [steps]: what the harness wrote before its ``name=value`` lines."""
    steps = len(network.plan.schedule.steps)
    end = said.rindex(b"\ninstructions=")
    return np.frombuffer(said, "<u4", steps, end - 4 * steps).astype(np.int64)

"""Targets ``mcu:mps2-an500`` and others: a model as generated C on an emulated Cortex-M board, by ``firmware_bridge``.

Instructions and bytes, never a latency: an emulated core has no clock worth the name, and instructions are not cycles.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Mapping

from edge_derm.errors import TargetError
from edge_derm.measure import record
from edge_derm.measure.environment import environment
from edge_derm.measure.models import read_model
from edge_derm.measure.targets import Target
from firmware_bridge.board import BOARDS, missing_tools
from firmware_bridge.graph import BridgeError
from firmware_bridge.network import Network, lcg_inputs, read_network
from firmware_bridge.running import Comparison, Run, check_network, profile_stages
from firmware_bridge.summary import count_operators

SEED = 12345
DEBIAN = "sudo apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
_NO_PROCESS = "no process on a microcontroller: see arena_bytes and stack_bytes"


def targets() -> list[Target]:
    """One target a board."""
    boards = (board for board in BOARDS.values() if board.emulated)
    return [
        Target(f"mcu:{board.name}", "mcu", partial(_ready, board.name), partial(bench, board.name))
        for board in boards
    ]


def bench(
    board: str,
    path: Path,
    *,
    compare: Path | None = None,
    runs: int = 1,
    backend: str = "litert",
    threads: int = 1,
    profile: bool = False,
    command: str | None = None,
) -> dict[str, Any]:
    """Instructions of one inference on ``board``, bytes of RAM and flash, and every tensor against LiteRT's reference.

    Args:
        path: a bundle folder or a bare int8 .tflite file.
        compare: another one, counted in the same way.
        runs, backend: not used: a count repeats exactly, and generated C has no engine.
        profile: also the instructions of each layer.

    Returns:
        A ``bench`` record whose ``latency_ms`` is null; with ``compare`` also ``ratio`` (of instructions) and ``verdict``.

    Raises:
        TargetError: ``mcu-options``, ``mcu-refused`` (no C for this model, or the board failed), ``bench-missing``.
    """
    if threads != 1:
        raise TargetError(f"mcu:{board}: expected one thread, got {threads}", code="mcu-options")
    try:
        network, run, compared = _measure(board, path)
        layers = _profile(network, board) if profile else None
        other = None if compare is None else _measure(board, compare)[1]
    except BridgeError as error:
        raise TargetError(f"mcu:{board}: {error}", code="mcu-refused") from error
    rest = {} if other is None or compare is None else _comparison(run, other, compare)
    return record.emulated(
        path,
        network.model,
        target=f"mcu:{board}",
        instructions=run.instructions,
        backend="firmware_bridge",
        threads=1,
        memory=_memory(network, run),
        operators=count_operators(network.whole),
        parity=_parity(compared),
        profile=layers,
        environment=environment(command=command),
        **rest,
    )


def _ready(board: str) -> tuple[bool, str | None]:
    missing = missing_tools(BOARDS[board])
    return not missing, DEBIAN if missing else None


def _measure(board: str, path: Path) -> tuple[Network, Run, Comparison]:
    network = read_network(read_model(path))
    return network, *check_network(network, board, [lcg_inputs(network, SEED)])


def _memory(network: Network, run: Run) -> dict[str, Any]:
    return {
        "model_bytes": len(network.model),
        "arena_bytes": run.sizes.arena,
        "state_bytes": run.sizes.state,
        "stack_bytes": run.stack_bytes,
        "text_bytes": run.sizes.text,
        "weights_bytes": run.sizes.weights,
        "peak_rss_bytes": None,
        "peak_rss_bytes_reason": _NO_PROCESS,
    }


def _parity(compared: Comparison) -> dict[str, Any]:
    return {
        "reference": "LiteRT, reference kernels, every tensor",
        "input": f"lcg:{SEED}",
        "values": compared.values,
        "different": sum(compared.wrong.values()),
    }


def _profile(network: Network, board: str) -> dict[str, Any]:
    stages = profile_stages(network, board, lcg_inputs(network, SEED))
    rows = [
        {
            "index": index,
            "name": stage["operator"],
            **{k: v for k, v in stage.items() if k not in ("operator", "steps")},
        }
        for index, stage in enumerate(stages)
    ]
    return {"method": "instructions of each step of the schedule, summed by layer", "operators": rows}


def _comparison(run: Run, other: Run, path: Path) -> Mapping[str, Any]:
    assert run.instructions is not None and other.instructions is not None  # emulated boards count
    value = run.instructions / other.instructions
    verdict = "fewer" if value < 1 else "more" if value > 1 else "equal"
    found = {"model": str(path), "instructions": other.instructions, "arena_bytes": other.sizes.arena}
    return {
        "ratio": {"value": value, "low": value, "high": value},
        "ratio_of": "instructions",
        "verdict": verdict,
        "other": found,
    }

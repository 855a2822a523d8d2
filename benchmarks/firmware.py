"""Generated C on every emulated board against TensorFlow Lite Micro with CMSIS-NN: instructions, arena, flash.

    python benchmarks/firmware.py MODEL.tflite... [--boards mps2-an500,mps3-an547] [--json FILE] [--layers]

Instructions of one inference of the input lcg:12345, counted under ``qemu-system-arm -icount shift=0``: they repeat
exactly and are not cycles. Every run is also compared with LiteRT's reference kernels, every tensor. The peer's figures
are quoted, not rebuilt: TensorFlow Lite Micro + CMSIS-NN 7.0, -O3, one Invoke, the same boards, counting and input.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from firmware_bridge import board as boards
from firmware_bridge.graph import BridgeError
from firmware_bridge.network import Network, lcg_inputs, read_network
from firmware_bridge.running import check_network, profile_stages
from firmware_bridge.summary import count_macs
from firmware_bridge.writing import write_file

SEED = 12345
EMULATED = tuple(name for name, board in boards.BOARDS.items() if board.emulated)

# Model -> board -> instructions of TFLM + CMSIS-NN; and the bytes of its arena.
QUOTED = {
    "vww_96_int8": ({"mps2-an500": 24_480_000, "mps3-an547": 6_430_000}, 100_708),
    "kws_ref_model": ({"mps2-an500": 7_760_000, "mps3-an547": 1_790_000}, 22_820),
    "derm128_mobilenet_int8": ({"mps2-an500": 43_610_000, "mps3-an547": 11_940_000}, 158_004),
    "derm128_d1_int8": ({"mps2-an500": 50_480_000, "mps3-an547": 19_810_000}, 158_004),
}


def main() -> None:
    chosen = _arguments()
    rows = []
    for path in chosen.models:
        network = read_network(path.read_bytes(), arena_limit=chosen.arena)
        for name in chosen.boards:
            row = measure(path.stem, network, name)
            rows.append(row)
            print(line(row), flush=True)
            for stage in row["stages"] if chosen.layers else ():
                print(f"    {stage['instructions']:>12,}  {stage['operator']:<20} {stage['shape']}")
    if chosen.json:
        write_file(chosen.json, json.dumps(record(rows), indent=2) + "\n")
    if any(not row["exact"] for row in rows):
        sys.exit("some output or intermediate tensor differs from the reference")


def measure(model: str, network: Network, name: str) -> dict[str, Any]:
    """One model on one board: counted, checked, by layer, beside the quoted peer (null where none was measured)."""
    inputs = lcg_inputs(network, SEED)
    run, compared = check_network(network, name, [inputs])
    quoted, arena = QUOTED.get(model, ({}, None))
    assert run.instructions is not None
    return {
        "model": model,
        "model_sha256": network.digest,
        "board": name,
        "core": boards.find_board(name).core,
        "instructions": run.instructions,
        "macs": count_macs(network.graph),
        "peer_instructions": quoted.get(name),
        "ratio": run.instructions / quoted[name] if name in quoted else None,
        "arena_bytes": run.sizes.arena,
        "peer_arena_bytes": arena,
        "text_bytes": run.sizes.text,
        "weights_bytes": run.sizes.weights,
        "state_bytes": run.sizes.state,
        "stack_bytes": run.stack_bytes,
        "exact": compared.exact,
        "values_compared": compared.values,
        "stages": profile_stages(network, name, inputs),
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    ratio = "     –" if row["ratio"] is None else f"{row['ratio']:6.2f}"
    arena = "      –" if row["peer_arena_bytes"] is None else f"{row['peer_arena_bytes']:7,}"
    return (
        f"{row['model']:<24} {row['core']:<10} {row['instructions'] / 1e6:8.2f} M  ×{ratio}  "
        f"{row['instructions'] / row['macs']:5.2f}/MAC  arena {row['arena_bytes']:7,} (peer {arena})  text "
        f"{row['text_bytes']:6,}  weights {row['weights_bytes']:8,}  stack {row['stack_bytes']:5,}  "
        f"{'exact' if row['exact'] else 'WRONG'}"
    )


def record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON: rows, and what they were measured with."""
    return {
        "record": "firmware-benchmark",
        "input": f"lcg:{SEED}",
        "counting": "qemu-system-arm -icount shift=0: instructions, not cycles; no time follows from them",
        "peer": "TensorFlow Lite Micro + CMSIS-NN 7.0, -O3, one Invoke: quoted, not rebuilt",
        "optimization": "-O2",
        "compiler": _version("arm-none-eabi-gcc"),
        "emulator": _version("qemu-system-arm"),
        "python": platform.python_version(),
        "command": " ".join(["python", "benchmarks/firmware.py", *(Path(a).name for a in sys.argv[1:])]),
        "rows": rows,
    }


def _version(tool: str) -> str:
    return subprocess.run([tool, "--version"], capture_output=True, text=True).stdout.split("\n")[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.tflite")
    parser.add_argument("--boards", type=lambda text: text.split(","), default=list(EMULATED))
    parser.add_argument("--arena", type=int, help="as firmware-bridge run --arena")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--layers", action="store_true", help="print the instructions of each layer")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except BridgeError as error:
        sys.exit(str(error))

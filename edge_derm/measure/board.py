"""Target ``board:virt-a72``: a whole emulated arm64 Linux machine, reached over SSH like a real board.

Its memory figures are those of a real Linux on arm64; it has no latency to tell. On request its instructions are counted: with
``-icount`` its clock advances one nanosecond an instruction, so what a clock calls time there is a count, the kernel's
own instructions included.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from edge_derm.errors import TargetError
from edge_derm.measure import emulated, image, machine, payload, process, visit
from edge_derm.measure.emulated import INFERENCES, Found
from edge_derm.measure.models import read_model
from edge_derm.measure.ssh import Address
from edge_derm.measure.targets import Target

NAME = "board:virt-a72"
NOT_ASKED = "not counted: ask with --count-instructions"


def targets() -> list[Target]:
    """The one board there is."""
    return [Target(NAME, "board", _ready, bench, image.prepare)]


def _ready() -> tuple[bool, str | None]:
    missing = image.missing()
    return missing is None, missing


def bench(
    path: Path,
    *,
    compare: Path | None = None,
    runs: int = INFERENCES,
    backend: str = "litert",
    threads: int = 1,
    count_instructions: bool = False,
    command: str | None = None,
) -> dict[str, Any]:
    """Start the board, look at one or two models on it, and stop it.

    Args:
        path: a bundle folder or a bare .tflite file.
        compare: another one, on the same running board.
        runs: not used: nothing is timed.
        count_instructions: run the board on one core with a clock that counts.

    Returns:
        A ``bench`` record: true peak memory, parity on both kernel families, the board's own environment; ``latency_ms`` is null.

    Raises:
        TargetError: ``board-options``, those of ``machine.running`` and ``visit.visit``. BundleError: a model must not be sent.
    """
    if backend != "litert" or threads not in range(1, 1 + (1 if count_instructions else machine.CORES)):
        raise TargetError(
            f"{NAME}: expected backend litert and at most {machine.CORES} threads (one where instructions are counted), "
            f"got {backend} and {threads}",
            code="board-options",
        )
    paths = [path] if compare is None else [path, compare]
    for each in paths:
        read_model(each)
    with machine.running(counting=count_instructions) as running:
        found, answer = look(running.address, paths, threads=threads, counting=count_instructions)
    return emulated.record_of(
        found,
        target=NAME,
        memory_reason=None,
        command=command,
        threads=threads,
        reason=None if count_instructions else NOT_ASKED,
        environment={**answer["environment"], "command": command},
        emulator={
            "version": version(),
            "cpu": machine.CPU,
            "cores": 1 if count_instructions else machine.CORES,
            "backend": answer["backend"],
        },
    )


def look(
    address: Address, paths: list[Path], *, threads: int = 1, counting: bool = False
) -> tuple[list[Found], dict[str, Any]]:
    """Memory, outputs and (if ``counting``) instructions of the models on the board at ``address``, and its whole answer."""
    images = [emulated.images_for(path) for path in paths]
    files, rows = [(payload.RUNNER, payload.runner())], []
    for i, path in enumerate(paths):
        name, data = payload.model_file(path, f"model{i}")
        files += [(name, data), (f"{i}.npy", _npy(images[i]))]
        rows.append({"model": name, "images": f"{i}.npy"})
    job = {
        "count": rows,
        "inferences": INFERENCES,
        "backend": "litert",
        "threads": threads,
        "clock": True,
        "look": True,
    }
    answer = json.loads(visit.run_job(address, files, job, backend="litert"))
    found = [
        Found(
            path,
            emulated.inferences(there["marks"]) if counting else (),
            emulated.parity(path, images[i], there["outputs"], backend_there=answer["backend"]),
            there["memory"]["peak_rss_bytes"],
        )
        for i, (path, there) in enumerate(zip(paths, answer["models"]))
    ]
    return found, answer


def version() -> str:
    """The emulator's own first line."""
    return process.run([machine.EMULATOR, "--version"], what=NAME, timeout_s=30).decode().splitlines()[0]


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()

"""``python -m edge_derm.deploy.selftest BUNDLE BUDGET SERVICE``: on the board, in the release's environment, before the switch.

Loads what the service will load (which leaves its bytecode as well: the service itself may write nothing), opens the bundle as
the service will (signature enforced if this board trusts someone), compares the golden predictions of both kernel families, and
measures latency and memory against the budget: ``{"lsb", "latency_ms", "memory_mb"}``, null for no limit. Exit status 1 and one
line on standard error if anything is outside.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from edge_derm.bundle import open_bundle
from edge_derm.errors import EdgeDermError, GateError
from edge_derm.runtime import Classifier, golden

# What a service imports, and when: a package that is missing shows before the switch.
_MODULES = {
    "none": (),
    "camera": (
        "edge_derm.cli.camera",
        "edge_derm.camera.show",
        "edge_derm.camera.web",
        "edge_derm.camera.worker",
    ),
}


def self_test(bundle: Path, budget: Mapping[str, Any]) -> dict[str, Any]:
    """The figures, all within ``budget``.

    Raises:
        BundleError, BackendError: the bundle cannot be used here.
        GateError: ``self-test-golden``, ``self-test-latency``, ``self-test-memory``.
    """
    opened = open_bundle(bundle)
    gaps = golden.check(opened)
    worst = max(gaps.values(), key=lambda gap: gap.decisions_changed or (gap.lsb or 0))
    if any(gap.decisions_changed or (gap.lsb or 0) > budget["lsb"] for gap in gaps.values()):
        raise GateError(
            f"golden predictions: expected at most {budget['lsb']} steps of difference and the same decisions, got "
            f"{worst.lsb} and {worst.decisions_changed} changed ({worst.kernels} kernels)",
            code="self-test-golden",
        )
    latency_ms = _latency_ms(Classifier.open(opened))
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, got, unit in (("latency", latency_ms, "ms"), ("memory", memory_mb, "mb")):
        limit = budget[f"{name}_{unit}"]
        if limit is not None and got > limit:
            raise GateError(
                f"{name}: expected at most {limit:g} {unit} on this board, got {got:.1f}: use a smaller model, or allow more",
                code=f"self-test-{name}",
            )
    return {"latency_ms": latency_ms, "memory_mb": memory_mb, "lsb": worst.lsb}


def _latency_ms(classifier: Classifier, runs: int = 20) -> float:
    image = np.zeros((classifier.size_px, classifier.size_px, 3), np.uint8)
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        classifier.predict(image)
        times.append((time.perf_counter() - begun) * 1e3)
    return float(np.median(times))


def main(arguments: Sequence[str]) -> int:
    """Print the figures as JSON."""
    for module in _MODULES[arguments[2]]:
        importlib.import_module(module)
    try:
        print(json.dumps(self_test(Path(arguments[0]), json.loads(arguments[1]))))
    except EdgeDermError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

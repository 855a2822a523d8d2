"""The target ``local``: this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_derm.bundle import check_model, open_bundle
from edge_derm.errors import TargetError
from edge_derm.measure import benchmark, record
from edge_derm.measure.environment import environment
from edge_derm.measure.memory import peak_rss
from edge_derm.measure.targets import Target
from edge_derm.runtime import Classifier
from firmware_bridge.summary import count_operators


def targets() -> list[Target]:
    """This machine: always ready."""
    return [Target("local", "local", lambda: (True, None), bench)]


def bench(
    path: Path,
    *,
    compare: Path | None = None,
    runs: int = 200,
    backend: str = "litert",
    threads: int = 1,
    command: str | None = None,
) -> dict[str, Any]:
    """Latency of ``predict`` on one preprocessed image, memory in a process of its own, operators, environment.

    Args:
        path: a bundle folder or a bare .tflite file.
        compare: another one, measured in turn with the first in this one run.
        runs: samples after warm-up, at least 50.

    Returns:
        A ``bench`` record; with ``compare`` also ``ratio``, ``verdict`` and the other's ``latency_ms`` under ``other``.

    Raises:
        BundleError, BackendError: the model cannot be loaded. TargetError: ``bench-missing``.
    """
    model, call = _load(path, backend, threads)
    other = None if compare is None else _load(compare, backend, threads)
    extra: dict[str, Any] = {}
    if other is None or compare is None:
        latency = benchmark.measure(call, runs=runs)
    else:
        latency, second, extra = benchmark.compare(call, other[1], runs=runs)
        extra["other"] = {"model": str(compare), "latency_ms": second.record(), "model_bytes": len(other[0])}
    return record.measured(
        path,
        model,
        target="local",
        latency_ms=latency.record(),
        backend=backend,
        threads=threads,
        memory=peak_rss(path, backend=backend, threads=threads),
        operators=dict(count_operators(check_model(model))),
        environment=environment(command=command),
        **extra,
    )


def _load(path: Path, backend: str, threads: int) -> tuple[bytes, Any]:
    if path.is_dir():
        bundle = open_bundle(path)
        model, classifier = bundle.model, Classifier.open(bundle, backend=backend, threads=threads)
    elif path.is_file():
        model = path.read_bytes()
        classifier = Classifier.of(model, backend=backend, threads=threads)
    else:
        raise TargetError(
            f"{path}: expected a bundle folder or a .tflite file, found nothing", code="bench-missing"
        )
    side = classifier.size_px
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return model, lambda: classifier.predict(image)

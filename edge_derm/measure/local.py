"""The target ``local``: this machine, with every backend that is installed here or has an environment of its own."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from edge_derm.bundle import Bundle, check_model, open_bundle
from edge_derm.errors import TargetError
from edge_derm.measure import benchmark, elsewhere, record
from edge_derm.measure.environment import environment
from edge_derm.measure.memory import peak_rss
from edge_derm.measure.profile import profile as profile_operators
from edge_derm.measure.soak import soak
from edge_derm.measure.targets import Target
from edge_derm.runtime import Classifier, golden
from firmware_bridge.summary import count_operators

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "EDGE_DERM_INSIDE"  # set in the other Python, which must not look for another in turn
OTHER = "tflite-runtime"  # the one backend that may live in another Python
PARITY_FLOAT, PARITY_QUANTISED = (
    1e-3,
    0.25,
)  # a backend further from the golden scores computes something else


@dataclass(frozen=True)
class Loaded:
    """A model ready to be timed."""

    path: Path
    model: bytes
    call: Callable[[], Any]
    parity: dict[str, Any] | None


def targets() -> list[Target]:
    """This machine, always ready, and the environment of tflite-runtime, which clashes with ours."""
    return [
        Target("local", "local", lambda: (True, None), bench),
        Target("local:tflite-runtime", "local", _other_ready, _bench_other, lambda: _prepare()),
    ]


def bench(
    path: Path,
    *,
    compare: Path | None = None,
    runs: int = 200,
    backend: str = "litert",
    threads: int = 1,
    profile: bool = False,
    soak_min: float | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Latency of ``predict`` on one preprocessed image, memory in a process of its own, operators, environment.

    Args:
        path: a bundle folder or a bare .tflite file.
        compare: another one, measured in turn with the first in this one run.
        runs: samples after warm-up, at least 50.
        profile: also the cost of each operator (``measure.profile``).
        soak_min: also this many minutes without a pause (``measure.soak``).

    Returns:
        A ``bench`` record; with ``compare`` also ``ratio``, ``verdict`` and the other's ``latency_ms`` under ``other``.

    Raises:
        BundleError, BackendError: the model cannot be loaded. TargetError: ``bench-missing``; ``bench-parity``: the backend does
        not compute what the bundle's golden vectors say, and is not timed; ``bench-profile``; ``bench-elsewhere``.
    """
    if backend == OTHER and not _here() and INSIDE not in os.environ:
        options = {"--compare": compare, "--runs": runs, "--threads": threads, "--soak": soak_min}
        return bench_in(_other_python(), path, options, profile=profile, command=command)
    if profile and backend not in ("litert", OTHER):
        raise TargetError(
            f"bench --profile: expected backend litert or {OTHER}, got {backend}: its sub-graphs are cut from the .tflite",
            code="bench-profile",
        )
    first = load(path, backend, threads)
    other = None if compare is None else load(compare, backend, threads)
    extra: dict[str, Any] = {}
    if other is None:
        latency = benchmark.measure(first.call, runs=runs)
    else:
        latency, second, extra = benchmark.compare(first.call, other.call, runs=runs)
        extra["other"] = {
            "model": str(compare),
            "latency_ms": second.record(),
            "model_bytes": len(other.model),
            "parity": other.parity,
        }
    return record.measured(
        path,
        first.model,
        target="local",
        latency_ms=latency.record(),
        backend=backend,
        threads=threads,
        memory=peak_rss(path, backend=backend, threads=threads),
        operators=dict(count_operators(check_model(first.model))),
        parity=first.parity,
        profile=profile_operators(first.model, backend=backend, threads=threads) if profile else None,
        soak=None if soak_min is None else soak(first.call, soak_min),
        environment=environment(command=command),
        **extra,
    )


def load(path: Path, backend: str, threads: int) -> Loaded:
    """The model at ``path`` on its backend, held to the bundle's golden vectors before it is timed."""
    parity = None
    if path.is_dir():
        bundle = open_bundle(path)
        model, classifier = bundle.model, Classifier.open(bundle, backend=backend, threads=threads)
        parity = check_parity(bundle, classifier, backend)
    elif path.is_file():
        model = path.read_bytes()
        classifier = Classifier.of(model, backend=backend, threads=threads)
    else:
        raise TargetError(
            f"{path}: expected a bundle folder or a .tflite file, found nothing", code="bench-missing"
        )
    side = classifier.size_px
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Loaded(path, model, lambda: classifier.predict(image), parity)


def check_parity(bundle: Bundle, classifier: Classifier, backend: str) -> dict[str, Any] | None:
    """How far this backend is from the golden outputs of each kernel family; None where the bundle holds none.

    Raises:
        TargetError: ``bench-parity``: far from both families.
    """
    if bundle.named(golden.ROLE) is None:
        return None
    found = golden.compare(bundle, classifier)
    nearest = min(difference.absolute for difference in found.values())
    allowed = PARITY_QUANTISED if classifier.output_scale else PARITY_FLOAT
    if not nearest <= allowed:
        raise TargetError(
            f"{bundle.path}: expected backend {backend} within {allowed} of the golden scores, got {nearest:.3g}: it computes "
            "something else and is not timed",
            code="bench-parity",
        )
    return {"against": golden.NAME, **{name: asdict(difference) for name, difference in found.items()}}


def bench_in(
    python: Path, path: Path, options: dict[str, Any], *, profile: bool = False, command: str | None = None
) -> dict[str, Any]:
    """The record of this same command run by another Python, which has tflite-runtime.

    Raises:
        TargetError: ``bench-elsewhere``, with that Python's last words.
    """
    words = [str(word) for name, value in options.items() if value is not None for word in (name, value)]
    line = [str(python), "-c", "from edge_derm.cli import main; main()", "bench", str(path.resolve())]
    line += ["--backend", OTHER, "--json", "-", *words, *(["--profile"] if profile else [])]
    done = subprocess.run(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**elsewhere.clean_environment(ROOT), INSIDE: "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise TargetError(
            f"{python}: {last.removeprefix('edge-derm: ')[:400]}: {elsewhere.variable(OTHER)} may name another Python",
            code="bench-elsewhere",
        )
    found = dict(json.loads(done.stdout))
    found["model"] = str(path)
    found["environment"]["command"] = command
    return found


@functools.wraps(bench)  # the same options, and no others
def _bench_other(path: Path, **options: Any) -> dict[str, Any]:
    return bench(path, **{**options, "backend": OTHER})


def _here() -> bool:
    return importlib.util.find_spec("tflite_runtime") is not None


def _other_ready() -> tuple[bool, str | None]:
    try:
        if _here() or elsewhere.find_python(OTHER):
            return True, None
    except TargetError:  # the variable names no program
        return False, f"unset {elsewhere.variable(OTHER)}"
    return False, f"edge-derm targets --prepare local:{OTHER}"


def _other_python() -> Path:
    python = elsewhere.find_python(OTHER)
    if python is None:
        raise TargetError(
            f"backend {OTHER}: expected it here or in an environment of its own, found neither: run 'edge-derm targets "
            f"--prepare local:{OTHER}', or set {elsewhere.variable(OTHER)} to a Python that has it",
            code="backend-elsewhere",
        )
    return python


def _prepare() -> None:
    if sys.version_info >= (3, 12):
        raise TargetError(
            f"{OTHER}: expected CPython 3.11 or older, for which it has wheels, got {sys.version_info[0]}.{sys.version_info[1]}: "
            f"set {elsewhere.variable(OTHER)} to a Python 3.11 that has it",
            code="python-not-made",
        )
    elsewhere.make_python(OTHER)

"""The seam between a classifier and an inference engine, and the list of engines behind it.

An ``Engine`` holds one loaded model. Two families of kernels are told apart, because the same int8 file
decides differently on them: ``default`` (XNNPACK on Linux) and ``reference`` (the arithmetic of TFLite Micro
and CMSIS-NN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Protocol

import numpy as np

from edge_derm.errors import BackendError

KERNELS = ("default", "reference")
ONNX_BACKENDS = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "opencv")
BACKENDS = ("litert", "tflite-runtime", *ONNX_BACKENDS)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor at the model's edge: real = scale · (stored − zero_point); scale 0.0 if not quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


class Engine(Protocol):
    """One loaded model; not safe for two threads at once (``Classifier`` holds a lock)."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, batch included in the shape."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs."""

    def run(self, write: Callable[..., object], *given: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run once and return copies of the outputs as stored.

        ``write`` is called with what was ``given`` and one writable array per input, the engine's own memory: it
        fills them in place and must not keep them.

        Raises:
            BackendError: ``backend-failed``.
        """

    def bind(self, write: Callable[[np.ndarray, np.ndarray], None]) -> Callable[[np.ndarray], np.ndarray]:
        """``run`` of a model with one input, made ready for one ``write``: a call that gives a copy of the first output.

        After an inference nothing of Python is in the caches, and whatever a call need not do again is a microsecond less.
        """


def load_engine(
    model: bytes, *, backend: str = "litert", kernels: str = "default", threads: int = 1, batch: int = 1
) -> Engine:
    """Load checked model bytes into an engine.

    Args:
        model: a .tflite that passed ``edge_derm.bundle.check_model``: native code trusts it; for the backends in
            ``ONNX_BACKENDS`` the bytes of an ONNX file, which are checked here.
        backend: one of ``BACKENDS``.
        kernels: ``default`` or ``reference``; the latter only for .tflite files.
        threads: CPU threads inside one run, at least 1.
        batch: images in one run; above 1 the input is resized.

    Raises:
        BackendError: ``backend-unknown``, ``kernels-unknown``, ``threads-invalid``, ``batch-invalid``,
            ``backend-missing`` (with the line that installs it), ``backend-refused``, ``kernels-crash``,
            ``provider-missing``, ``provider-fell-back``.
        BundleError: ``onnx-…``: not an ONNX file to hand to native code.
    """
    if backend not in BACKENDS:
        raise BackendError(
            f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}", code="backend-unknown"
        )
    if kernels not in KERNELS:
        raise BackendError(
            f"kernels: expected one of {', '.join(KERNELS)}, got {kernels!r}", code="kernels-unknown"
        )
    for name, value in (("threads", threads), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
            raise BackendError(
                f"{name}: expected a whole number from 1 to 1024, got {value!r}", code=f"{name}-invalid"
            )
    if backend in ONNX_BACKENDS:
        return _load_onnx(model, backend, kernels=kernels, threads=threads, batch=batch)
    from edge_derm.runtime.interpreter import InterpreterEngine  # which imports this module's TensorSpec

    return InterpreterEngine(model, package=backend, kernels=kernels, threads=threads, batch=batch)


def _load_onnx(model: bytes, backend: str, *, kernels: str, threads: int, batch: int) -> Engine:
    if kernels != "default":
        raise BackendError(
            f"backend {backend}: expected the default kernels, got {kernels!r}: reference kernels are LiteRT's",
            code="kernels-unknown",
        )
    if batch != 1:
        raise BackendError(
            f"backend {backend}: expected batch 1, the one the file was exported with, got {batch}",
            code="batch-invalid",
        )
    from edge_derm.runtime.onnx import OnnxRuntimeEngine, OpenCvEngine

    if backend == "opencv":
        return OpenCvEngine(model, threads=threads)
    return OnnxRuntimeEngine(model, backend=backend, threads=threads)

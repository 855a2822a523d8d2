"""Engines for the ONNX part of a bundle: ONNX Runtime on processor, CUDA or TensorRT, and OpenCV's DNN module.

Float models only: OpenCV 5 silently miscomputes dilated .tflite files, and what ONNX Runtime makes of an int8 one is
another model. ``export --recipe onnx`` writes the part.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator

import numpy as np

from edge_derm.bundle.onnx import check_onnx
from edge_derm.errors import BackendError
from edge_derm.runtime.backends import TensorSpec
from edge_derm.runtime.encoding import Write

PROVIDERS = {
    "onnxruntime": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
}
_GPU = (
    "install an ONNX Runtime wheel built for this GPU: onnxruntime-gpu from the index on a desktop; JetPack 6 has none "
    "there, take NVIDIA's or your own wheel"
)


class OnnxRuntimeEngine:
    """One model in one ONNX Runtime session; the tensor written to is the engine's own and is reused."""

    def __init__(self, model: bytes, *, backend: str, threads: int) -> None:
        self._backend = backend
        self.inputs, self.outputs = _specs(model)
        self._session = _open(_import_runtime(), model, backend, threads)
        self._buffer = np.zeros(self.inputs[0].shape, np.float32)
        self._feed = {self.inputs[0].name: self._buffer}

    def bind(self, write: Write) -> Callable[[np.ndarray], np.ndarray]:
        """See ``Engine.bind``."""
        return lambda images: self.run(write, images)[0]

    def run(self, write: Callable[..., object], *given: np.ndarray) -> tuple[np.ndarray, ...]:
        """See ``Engine.run``."""
        try:
            write(*given, self._buffer)
            return tuple(self._session.run(None, self._feed))
        except Exception as error:  # ONNX Runtime's exceptions share no nearer class
            raise BackendError(
                f"{self._backend}: the run failed: {_one_line(error)}", code="backend-failed"
            ) from None


class OpenCvEngine:
    """One model in OpenCV's DNN module. ``threads`` is a setting of OpenCV as a whole: it also rules ``preprocess``."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        import cv2

        self.inputs, self.outputs = _specs(model)
        self._failure = cv2.error
        cv2.setNumThreads(threads)
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        except cv2.error as error:
            raise _refused("opencv", error) from None
        self._buffer = np.zeros(self.inputs[0].shape, np.float32)

    def bind(self, write: Write) -> Callable[[np.ndarray], np.ndarray]:
        """See ``Engine.bind``."""
        return lambda images: self.run(write, images)[0]

    def run(self, write: Callable[..., object], *given: np.ndarray) -> tuple[np.ndarray, ...]:
        """See ``Engine.run``."""
        try:
            write(*given, self._buffer)
            self._net.setInput(self._buffer)
            return (self._net.forward().copy(),)
        except self._failure as error:
            raise BackendError(f"opencv: the run failed: {_one_line(error)}", code="backend-failed") from None


def _specs(model: bytes) -> tuple[tuple[TensorSpec], tuple[TensorSpec]]:
    given, made = check_onnx(model)
    return (
        (TensorSpec(given.name, given.shape, "float32", 0.0, 0),),
        (TensorSpec(made.name, made.shape, "float32", 0.0, 0),),
    )


def _open(runtime: ModuleType, model: bytes, backend: str, threads: int) -> Any:
    wanted = PROVIDERS[backend]
    available = runtime.get_available_providers()
    if wanted not in available:
        raise BackendError(
            f"backend {backend}: expected {wanted} in this ONNX Runtime, got {', '.join(available)}: {_GPU}",
            code="provider-missing",
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        if backend == "onnxruntime-tensorrt":
            cache = engine_cache(model, runtime.__version__)
            with building(cache):
                session = runtime.InferenceSession(model, options, providers=tensorrt(cache))
        else:
            session = runtime.InferenceSession(model, options, providers=[wanted])
    except Exception as error:  # as above
        raise _refused(backend, error) from None
    if session.get_providers()[0] != wanted:  # it falls back without a word
        raise BackendError(
            f"backend {backend}: expected {wanted}, got {session.get_providers()[0]}: its libraries did not load; {_GPU}",
            code="provider-fell-back",
        )
    return session


def tensorrt(cache: Path) -> list[Any]:
    """ONNX Runtime's providers for TensorRT with engines kept in ``cache``; what TensorRT cannot run goes to CUDA."""
    options = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
    }
    return [(PROVIDERS["onnxruntime-tensorrt"], options), PROVIDERS["onnxruntime-cuda"]]


def engine_cache(model: bytes, version: str) -> Path:
    """The folder that keeps the engines of one model under one ONNX Runtime (TensorRT itself checks GPU and version)."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "edge-derm" / "tensorrt" / f"{hashlib.sha256(model).hexdigest()[:16]}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def building(cache: Path, *, every_s: float = 5.0) -> Iterator[None]:
    """Say on stderr, while a first engine is built (minutes on a Jetson), that it is, and for how long."""
    if any(cache.glob("*.engine")):
        yield
        return
    done, start = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(every_s):
            _say(f"building the TensorRT engine: {time.monotonic() - start:.0f} s")

    _say(f"building the TensorRT engine, once for this model (kept in {cache})")
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
    _say(f"the TensorRT engine is built: {time.monotonic() - start:.0f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _import_runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"backend onnxruntime is not installed ({_one_line(error)}): pip install 'edge-derm[onnxruntime]'",
            code="backend-missing",
        ) from error
    return onnxruntime


def _refused(backend: str, error: Exception) -> BackendError:
    return BackendError(f"{backend}: cannot load this model: {_one_line(error)}", code="backend-refused")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

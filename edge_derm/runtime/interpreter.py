"""Engines behind TensorFlow Lite's Python ``Interpreter``: LiteRT and the older tflite-runtime."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType
from typing import Any, Callable, Mapping

import numpy as np

from edge_derm.bundle.structure import check_model
from edge_derm.errors import BackendError
from edge_derm.quiet import quiet_native
from edge_derm.runtime.backends import TensorSpec
from edge_derm.runtime.encoding import Write, bound
from edge_derm.runtime.memory import held, stays
from edge_derm.runtime.tiles import without_tiles
from firmware_bridge.graph import Graph

_MODULES = {"litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_DISTRIBUTIONS = {"litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}
_INSTALL = {
    "litert": "pip install 'ai-edge-litert>=2.1,<3'",
    "tflite-runtime": "pip install 'edge-derm[legacy]' (CPython 3.11 or older)",
}
_RESOLVERS = {"default": "AUTO", "reference": "BUILTIN_REF"}


class InterpreterEngine:
    """One model in one ``Interpreter``; the model's bytes are kept because the interpreter refers to them."""

    def __init__(self, model: bytes, *, package: str, kernels: str, threads: int, batch: int) -> None:
        module = _import(package)
        self._model = model
        self._package = package
        try:
            with quiet_native(), without_tiles(model):
                self._interpreter = _open(module, model, kernels, threads, batch)
        except (ValueError, RuntimeError, MemoryError) as error:
            advice = f" (it may take one image at a time: try batch=1, not {batch})" if batch > 1 else ""
            raise BackendError(
                f"{package}: cannot load this model: {_one_line(error)}{advice}", code="backend-refused"
            ) from None
        graph = check_model(model)
        if kernels == "default":
            _refuse_what_crashes(graph)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = tuple(_spec(detail) for detail in outputs)
        self._views = tuple(self._interpreter.tensor(detail["index"]) for detail in inputs)
        settled = inputs if stays(graph) else []
        self._held = tuple(held(self._interpreter, detail["index"]) for detail in settled)
        self._results = tuple(detail["index"] for detail in outputs)

    def run(self, write: Callable[..., object], *given: np.ndarray) -> tuple[np.ndarray, ...]:
        """See ``Engine.run``."""
        try:
            write(*given, *(self._held or [view() for view in self._views]))
            self._interpreter.invoke()
            return tuple(map(self._interpreter.get_tensor, self._results))
        except RuntimeError as error:
            raise self._failed(error) from None

    def bind(self, write: Write) -> Callable[[np.ndarray], np.ndarray]:
        """See ``Engine.bind``."""
        if len(self._held) != 1:
            return lambda images: self.run(write, images)[0]
        put, index = bound(write, self._held[0]), self._results[0]
        invoke, get = self._interpreter.invoke, self._interpreter.get_tensor

        def infer(images: np.ndarray) -> np.ndarray:
            try:
                put(images)
                invoke()
                return get(index)
            except RuntimeError as error:
                raise self._failed(error) from None

        return infer

    def _failed(self, error: RuntimeError) -> BackendError:
        return BackendError(f"{self._package}: the run failed: {_one_line(error)}", code="backend-failed")

    def invoke(self) -> None:
        """Run once on what the input holds; outputs stay where they are (for timing)."""
        self._interpreter.invoke()


def backend_version(backend: str) -> str:
    """Name and version of the installed engine, ``ai-edge-litert 2.3.0``.

    Raises:
        BackendError: ``backend-missing``.
    """
    try:
        return f"{_DISTRIBUTIONS[backend]} {importlib.metadata.version(_DISTRIBUTIONS[backend])}"
    except importlib.metadata.PackageNotFoundError:
        raise _missing(backend) from None


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(_MODULES[package])
    except ImportError as error:
        raise _missing(package, error) from error


def _refuse_what_crashes(graph: Graph) -> None:
    """TensorFlow Lite's default kernels read the bias of an int8 depthwise layer, there or not: that would end this process."""
    for number, op in enumerate(graph.ops):
        has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
        if op.name == "DEPTHWISE_CONV_2D" and graph.tensor(op.inputs[0]).dtype == "int8" and not has_bias:
            raise BackendError(
                f"operator {number} of this model, an int8 DEPTHWISE_CONV_2D: expected a bias, got none, and the default "
                "kernels crash on that (LiteRT 2.3): give the layer one, zeros will do, and convert it again, or take the "
                "reference kernels",
                code="kernels-crash",
            )


def _open(module: ModuleType, model: bytes, kernels: str, threads: int, batch: int) -> Any:
    resolver = getattr(module.OpResolverType, _RESOLVERS[kernels])
    interpreter = module.Interpreter(
        model_content=model, num_threads=threads, experimental_op_resolver_type=resolver
    )
    if batch > 1:
        for detail in interpreter.get_input_details():
            interpreter.resize_tensor_input(detail["index"], [batch, *detail["shape"][1:]])
    interpreter.allocate_tensors()
    if batch > 1 and any(detail["shape"][0] != batch for detail in interpreter.get_output_details()):
        raise ValueError(f"its output does not follow a batch of {batch}")
    return interpreter


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=str(detail["name"]),
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale),
        zero_point=int(zero_point),
    )


def _missing(package: str, error: ImportError | None = None) -> BackendError:
    why = f" ({_one_line(error)})" if error is not None else ""
    return BackendError(
        f"backend {package} is not installed{why}: {_INSTALL[package]}", code="backend-missing"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

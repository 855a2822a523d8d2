"""The exception tree.

    EdgeDermError            every error this package raises on purpose
    ├── DataError            images, labels, splits
    ├── BundleError          a bundle or a bare .tflite that must not be loaded
    ├── ModelError           building, training, compressing or exporting a model
    ├── BackendError         an inference engine that is missing or refuses
    ├── TargetError          a place to run (machine, board, emulator) that is not ready or fails
    └── GateError            a measured figure outside what was allowed

Each error carries a stable ``code`` (kebab-case, for scripts and tests) and a message that says what was expected,
what was got, where, and what to do next. The command line prints the message in one line and exits with 1.
"""

from __future__ import annotations


class EdgeDermError(Exception):
    """An error with a stable ``code``; ``str(error)`` is one line for a person."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class DataError(EdgeDermError):
    """Images, labels or splits are not what they must be."""


class BundleError(EdgeDermError):
    """A bundle or model file is damaged, foreign or newer than this reader."""


class ModelError(EdgeDermError):
    """A model cannot be built, trained, compressed or exported as asked."""


class BackendError(EdgeDermError):
    """An inference engine is missing or refuses the model."""


class TargetError(EdgeDermError):
    """A place to run is not ready, unreachable or failed."""


class GateError(EdgeDermError):
    """A measured figure lies outside what the gate allows."""

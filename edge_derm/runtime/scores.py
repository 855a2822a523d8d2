"""From what a model's output tensor stores to calibrated probabilities."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from edge_derm.bundle import Calibration, Manifest
from edge_derm.runtime import decision
from edge_derm.runtime.backends import TensorSpec

_LEAST = 1e-280  # of a share: a sum of these is not rounded to zero, and beside any step of an output it is nothing
_FLOAT = np.dtype(np.float32)  # a dtype at hand: half a microsecond less than looking it up
_MOST = 64  # classes in a table, which is 256 numbers each


class Scores:
    """What the scores of one model mean: real numbers by its output tensor, probabilities by its manifest."""

    def __init__(self, spec: TensorSpec, manifest: Manifest) -> None:
        """Take the output tensor and what was fitted."""
        self._manifest = manifest
        self._fit = manifest.calibration or Calibration()
        self._values = _values_of(spec)
        self._floor = spec.scale / 2 or 1e-12
        self._is_fitted = (
            manifest.temperature not in (None, 1.0)
            or self._fit.scale is not None
            or self._fit.shift is not None
        )
        self._is_plain = not self._is_fitted and manifest.output.activation == "softmax"
        self._is_as_stored = self._is_plain and np.dtype(spec.dtype) == np.float32
        self._shares = self._shares_of_stored()
        self._columns = 256 * np.arange(len(manifest.labels))
        self._alone = 1, len(manifest.labels)
        self._lists = [] if self._shares is None else self._shares.reshape(-1, 256).tolist()

    def probabilities(self, stored: np.ndarray) -> np.ndarray:
        """float32 [..., C]: calibrated probabilities from scores as the output tensor stores them.

        Of eight bits everything that was fitted is in one table: a handful of NumPy calls, where each costs a microsecond or three,
        and of one image none.
        """
        if self._is_as_stored:
            return decision.normalise(stored)
        if self._shares is None:
            return self.calibrated(self.real(stored))
        if stored.shape == self._alone:
            one = [values[k] for values, k in zip(self._lists, stored.tobytes())]
            total = sum(one)
            return np.array([[share / total for share in one]], _FLOAT)
        shares = self._shares.take(stored.view(np.uint8) + self._columns)
        return np.asarray(shares / np.add.reduce(shares, axis=-1, keepdims=True), np.float32)

    def real(self, stored: np.ndarray) -> np.ndarray:
        """float32 [..., C]: scores as the output tensor stores them, dequantised."""
        if self._values is None:
            return stored if stored.dtype == np.float32 else stored.astype(np.float32)
        return self._values.take(stored.view(np.uint8 if stored.itemsize == 1 else np.uint16))

    def calibrated(self, raw: np.ndarray) -> np.ndarray:
        """float32 [..., C]: probabilities from ``raw`` scores by everything the manifest holds."""
        if self._is_plain:
            return decision.normalise(raw)
        return self.temper(raw, self._manifest.temperature, scale=self._fit.scale, shift=self._fit.shift)

    def recalibrated(self, p: np.ndarray) -> np.ndarray:
        """float32 [N, C]: another model's plain probabilities put through this bundle's calibration, same floor and all."""
        if not self._is_fitted:
            return p
        return decision.probabilities(
            p,
            temperature=self._manifest.temperature,
            scale=self._fit.scale,
            shift=self._fit.shift,
            floor=self._floor,
        )

    def temper(
        self,
        raw: np.ndarray,
        temperature: float | None,
        *,
        scale: Sequence[float] | None = None,
        shift: Sequence[float] | None = None,
    ) -> np.ndarray:
        """float32 [N, C]: probabilities from ``raw`` scores at a temperature, scale and shift (None: the model's own)."""
        return decision.probabilities(
            raw,
            activation=self._manifest.output.activation,
            temperature=temperature,
            scale=scale,
            shift=shift,
            floor=self._floor,
        )

    def logits(self, raw: np.ndarray) -> np.ndarray:
        """float64 [N, C]: what the temperature divides; logarithms of the floored scores where the model ends in a softmax."""
        scores = raw.astype(np.float64)
        return (
            scores
            if self._manifest.output.activation == "logits"
            else np.log(np.maximum(scores, self._floor))
        )

    def _shares_of_stored(self) -> np.ndarray | None:
        """float64 [C · 256]: what a probability is the share of, by class and stored value; None: such a table would not do."""
        if self._values is None or len(self._values) != 256 or len(self._manifest.labels) > _MOST:
            return None
        values = np.tile(self._values.astype(np.float64), (len(self._manifest.labels), 1))
        if self._is_plain and values.min() < 0:  # a row that is not of zeros may add up to zero
            return None
        if self._is_plain:
            return np.where(values, values, _LEAST).ravel()  # a row of zeros becomes uniform
        logits = decision.rescale(
            self.logits(values.T),
            temperature=self._manifest.temperature,
            scale=self._fit.scale,
            shift=self._fit.shift,
        )
        powers = np.exp(logits - logits.max())
        return powers.T.ravel() if powers.min() > _LEAST else None


def _values_of(spec: TensorSpec) -> np.ndarray | None:
    """The real value of each stored output bit pattern, float32, or None where the output is float."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return None
    unsigned = np.uint8 if dtype.itemsize == 1 else np.uint16
    patterns = np.arange(np.iinfo(unsigned).max + 1).astype(unsigned)
    steps = patterns.view(dtype).astype(np.float64) - spec.zero_point
    return (steps * (spec.scale or 1.0)).astype(np.float32)

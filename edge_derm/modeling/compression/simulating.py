"""Tuning with int8 simulated (``qat``), from an equalised and rounded start to the teachers' decisions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edge_derm.modeling.compression import qat, quantise
from edge_derm.modeling.compression.chain import fold, unfold
from edge_derm.modeling.compression.reconstruct import quantiser, reconstruct
from edge_derm.modeling.compression.tuning import Tuning
from edge_derm.modeling.interface import input_size, need_tensorflow


class Simulation(Tuning):
    """Tuning to the teachers' decisions alone; the last epoch counts, nothing is chosen on any image.

    Args:
        seen: uint8 [N, S, S, 3], training images that ranges start from.
    """

    label_weight = 0.0

    def __init__(self, *given: Any, parent: keras.Model, seen: np.ndarray, **options: Any) -> None:
        need_tensorflow("qat")
        levelled, ranges = quantise.level(fold(parent), seen)
        self.parent = parent
        self.chain = reconstruct(levelled, seen[: quantise.ROUNDED_ON], quantiser(ranges))
        start = qat.trainable(self.chain, ranges, input_size(parent))
        super().__init__(*given, start=start, constraint=None, **options)

    def product(self) -> keras.Model:
        return unfold(self.parent, qat.trained(self.model, self.chain)[0])

    def ranges(self) -> dict[str, tuple[float, float]]:
        return quantise.by_output(self.parent, qat.trained(self.model, self.chain)[1])

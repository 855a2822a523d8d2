"""Records: what a command's ``--json`` holds, in JSON's own types."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np


def clean(value: Any) -> Any:
    """JSON's own types only: NumPy values unwrapped, not-a-number as null, paths as text."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, np.ndarray):
        return clean(value.tolist())
    if isinstance(value, np.generic):
        return clean(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value

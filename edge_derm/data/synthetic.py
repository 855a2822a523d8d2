"""``synthetic[:N]``: drawn dermoscopic pictures, so that everything can be tried without anybody's images.

Four classes that differ as the ABCD rule says (asymmetry, border, colour, structures), on skin of varying tone, under hair,
rulers, gel bubbles, vignetting and uneven light. They train a small net to roughly 90 %, not to 100 %: a share of the lesions
is atypical and takes some traits of another class. Good for trying the tools; **no evidence about patients**.

Sample ``i`` of seed ``s`` is always the same picture on one platform and NumPy/OpenCV version (another may round a few values
differently by one). Lesions are numbered; about one in eight is seen twice, so that lesion-wise splits have something to keep
together.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from edge_derm.data import drawing
from edge_derm.data.dataset import Dataset, Sample
from edge_derm.errors import DataError

LABELS = ("keratosis", "melanoma", "nevus", "vascular")
SHARES = (0.23, 0.22, 0.37, 0.18)  # naevi are the most frequent, as in a clinic, but not by much
DEFAULT_COUNT = 1600
DIFFICULTY = 0.3
MOST = 200_000
SITES = ("abdomen", "back", "face", "lower extremity", "trunk", "upper extremity")


def open_synthetic(spec: str, *, seed: int = 0, difficulty: float = DIFFICULTY) -> Dataset:
    """The data set ``synthetic`` or ``synthetic:N``.

    Args:
        difficulty: 0 (every lesion typical) to 1 (classes overlap heavily).

    Raises:
        DataError: ``synthetic-count`` (not a whole number from 8 to 200,000).
    """
    text = spec.partition(":")[2] or str(DEFAULT_COUNT)
    if not text.isdecimal() or not 8 <= int(text) <= MOST:
        raise DataError(
            f"{spec}: expected synthetic or synthetic:N with N from 8 to {MOST}, got {text!r}",
            code="synthetic-count",
        )
    samples = tuple(_sample(index, seed) for index in range(int(text)))
    key = f"edge-derm synthetic {drawing.VERSION} {seed} {difficulty} {text}"
    return Dataset(
        spec,
        spec,
        LABELS,
        samples,
        (),
        hashlib.sha256(key.encode()).hexdigest(),
        functools.partial(draw, seed=seed, difficulty=difficulty),
    )


def draw(index: int, *, seed: int = 0, difficulty: float = DIFFICULTY) -> np.ndarray:
    """Picture ``index`` of ``seed``: uint8 RGB [160, 160, 3]."""
    sample = _sample(index, seed)
    lesion = np.random.default_rng([seed, 1, int(sample.group.rsplit("-", 1)[1])])
    view = np.random.default_rng([seed, 2, index])
    return drawing.picture(LABELS[sample.label], lesion, view, difficulty=difficulty)


def _sample(index: int, seed: int) -> Sample:
    # Every eighth picture is a second view of the lesion before it.
    lesion = index - 1 if index % 8 == 7 else index
    rng = np.random.default_rng([seed, 0, lesion])
    # The first pictures walk through the classes, so that the smallest set has them all.
    label = lesion % len(LABELS) if lesion < 8 else int(rng.choice(len(LABELS), p=SHARES))
    age = int(np.clip(rng.normal(46 + 14 * (LABELS[label] in ("melanoma", "keratosis")), 15), 5, 90)) // 5 * 5
    meta = {
        "age": str(age),
        "sex": str(rng.choice(["female", "male"])),
        "localization": str(rng.choice(SITES)),
        "lesion_id": f"lesion-{lesion}",
    }
    return Sample(f"synthetic-{index}", label, f"lesion-{lesion}", None, meta)

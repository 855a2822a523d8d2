"""Seeded splits that keep a lesion (or patient) on one side and every class on all sides."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Mapping

import numpy as np

from edge_derm.data.dataset import Dataset
from edge_derm.errors import DataError

DEFAULT_FRACTIONS = {"train": 0.85, "validation": 0.15}


@dataclass(frozen=True)
class Split:
    """Sample indices (int64, sorted) by part, and what made them. ``digest`` names the outcome."""

    parts: Mapping[str, np.ndarray]
    seed: int
    fractions: Mapping[str, float]
    digest: str
    share: float = 1.0  # of the lesions of the part ``train`` that are used

    @property
    def recipe(self) -> dict[str, object]:
        """What a record keeps of it: enough to make it again with ``again``."""
        made = {"seed": self.seed, "digest": self.digest, "fractions": dict(self.fractions)}
        return made if self.share == 1 else {**made, "share": self.share}


def again(dataset: Dataset, recipe: Mapping[str, Any]) -> Split:
    """The split that ``Split.recipe`` tells of, of the same data."""
    made = split(dataset, seed=recipe["seed"], fractions=recipe["fractions"])
    return thin(dataset, made, recipe.get("share", 1.0))


def thin(dataset: Dataset, parts: Split, share: float) -> Split:
    """Use a share of the training part only: whole lesions, at least one of each class; smaller shares lie inside larger ones.

    The other parts stay as they are, so models trained on different shares are judged on the same images.
    """
    if share == 1:
        return parts
    if not 0 < share < 1:
        raise DataError(
            f"share of the training images: expected above 0, at most 1, got {share}", code="split-share"
        )
    chosen: list[int] = []
    train = parts.parts["train"]
    targets = dataset.targets(train)
    for label in range(len(dataset.labels)):
        mine = train[targets == label]
        groups = sorted({dataset.samples[i].group for i in mine})
        order = np.random.default_rng(label).permutation(len(groups))
        taken = {groups[i] for i in order[: max(1, round(share * len(groups)))]}
        chosen += [int(i) for i in mine if dataset.samples[i].group in taken]
    thinned = {**parts.parts, "train": np.array(sorted(chosen), dtype=np.int64)}
    return replace(parts, parts=thinned, digest=_digest(dataset, thinned), share=share)


def split(dataset: Dataset, *, seed: int, fractions: Mapping[str, float] | None = None) -> Split:
    """Divide a data set: groups never cross, each class is divided by the fractions as nearly as its groups allow.

    The outcome depends on image ids, labels, groups and the seed, not on the order of files. The first part gets at
    least one group of every class, then the others while groups last.

    Raises:
        DataError: ``split-fractions`` (not positive, or not summing to 1), ``split-classes`` (fewer than two classes),
            ``split-too-small`` (a part would be empty).
    """
    fractions = dict(fractions or DEFAULT_FRACTIONS)
    _check(dataset, fractions)
    chosen: dict[str, list[int]] = {name: [] for name in fractions}
    rng = np.random.default_rng(seed)
    for label in range(len(dataset.labels)):
        groups = _groups(dataset, label)
        names = sorted(groups)
        order = [names[i] for i in rng.permutation(len(names))]
        for name, members in zip(fractions, _deal(order, groups, list(fractions.values()))):
            chosen[name].extend(members)
    empty = [name for name, members in chosen.items() if not members]
    if empty:
        raise DataError(
            f"{dataset.name}: too few images ({len(dataset)}) to split: nothing is left for {', '.join(empty)}: add images",
            code="split-too-small",
        )
    parts = {name: np.array(sorted(members), dtype=np.int64) for name, members in chosen.items()}
    return Split(parts, seed, fractions, _digest(dataset, parts))


def _check(dataset: Dataset, fractions: Mapping[str, float]) -> None:
    if not fractions or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise DataError(
            f"split: expected positive fractions that sum to 1, got {dict(fractions)}", code="split-fractions"
        )
    if len({sample.label for sample in dataset.samples}) < 2:
        raise DataError(
            f"{dataset.name}: expected at least two classes with images, got {len({s.label for s in dataset.samples})}",
            code="split-classes",
        )


def _groups(dataset: Dataset, label: int) -> dict[str, list[int]]:
    # A group with images of several classes is dealt with the class of its first image (by id), so it stays whole.
    home: dict[str, tuple[str, int]] = {}
    for sample in dataset.samples:
        home[sample.group] = min(
            home.get(sample.group, (sample.image_id, sample.label)), (sample.image_id, sample.label)
        )
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(dataset.samples):
        if home[sample.group][1] == label:
            groups.setdefault(sample.group, []).append(index)
    return groups


def _deal(order: list[str], groups: Mapping[str, list[int]], shares: list[float]) -> list[list[int]]:
    """Deal whole groups in ``order`` to the part that is furthest below its share."""
    dealt: list[list[int]] = [[] for _ in shares]
    total = sum(len(groups[name]) for name in order)
    for name in order:
        lacking = [share * total - len(part) for share, part in zip(shares, dealt)]
        waiting = [i for i, part in enumerate(dealt) if not part]
        part = waiting[0] if waiting and len(order) >= len(shares) else int(np.argmax(lacking))
        if len(order) < len(shares) and not dealt[0]:
            part = 0
        dealt[part].extend(groups[name])
    return dealt


def _digest(dataset: Dataset, parts: Mapping[str, np.ndarray]) -> str:
    named = {name: sorted(dataset.samples[i].image_id for i in members) for name, members in parts.items()}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

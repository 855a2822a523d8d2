"""What a channel, come upon or put there on purpose, does to perturbations, and what it costs."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import numpy as np

from edge_derm.trust import attack
from edge_derm.trust.audit import Answer, name_of
from edge_derm.trust.channels import Channel, apply
from edge_derm.trust.evaluate import balanced
from edge_derm.trust.intervals import proportion


def through(
    channels: Mapping[str, Channel],
    perturbations: Mapping[str, Sequence[attack.Perturbation]],
    *,
    images: np.ndarray,
    targets: np.ndarray,
    answer: Answer,
) -> list[dict[str, Any]]:
    """One row a channel and perturbation, the empty channel (``none``: 8-bit rounding alone) first.

    ``fooling_rate`` compares the answers behind the channel with and without the perturbation, so what the channel does to
    clean images does not count; that is ``clean_changed`` and ``balanced_clean``.

    Args:
        perturbations: by source; random controls may be among them.
        images: uint8 [N, S, S, 3]. targets: int64 [N], for the accuracies.
    """
    bare = answer(images.astype(np.float32))
    rows = []
    for name, channel in {"none": _same, **channels}.items():

        def said(pixels: np.ndarray) -> np.ndarray:
            seen = apply(channel, np.rint(pixels).astype(np.uint8))  # noqa: B023 (used in this turn only)
            return answer(seen.astype(np.float32))

        clean = said(images)
        for source, drawn in perturbations.items():
            for r in drawn:
                answers = said(attack.add(images, r.pixels))
                rows.append(
                    {
                        "channel": name,
                        "source": source,
                        "norm": name_of(r.norm),
                        "fooling_rate": proportion(int((answers != clean).sum()), len(clean)),
                        "clean_changed": float((clean != bare).mean()),
                        "balanced_clean": balanced(clean, targets),
                        "balanced_perturbed": balanced(answers, targets),
                    }
                )
    return rows


def hidden_behind(
    channel: Channel, predict: attack.Predict, gradient: attack.Gradient
) -> tuple[attack.Predict, attack.Gradient]:
    """The two callables an attacker uses who knows of the channel: answers behind it, its own slope taken as 1.

    (The backward pass differentiable approximation of Athalye, Carlini, Wagner 2018.) A defence that holds only against an
    attacker who does not know of it is none.
    """

    def seen(pixels: np.ndarray) -> np.ndarray:
        return apply(channel, np.rint(pixels).astype(np.uint8)).astype(np.float32)

    def predict_behind(pixels: np.ndarray) -> np.ndarray:
        return predict(seen(pixels))

    def gradient_behind(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return gradient(seen(pixels), labels)

    return predict_behind, gradient_behind


def cost(
    extra: Callable[[np.ndarray], Any],
    model: Callable[[np.ndarray], Any],
    image: np.ndarray,
    *,
    runs: int = 60,
) -> dict[str, float]:
    """Median time of ``extra`` and of ``model`` on one image in ms, taken in turn, and their ratio."""
    import time

    taken = np.empty((2, runs))
    for i in range(runs):
        for which, call in enumerate((extra, model)):
            start = time.perf_counter_ns()
            call(image)
            taken[which, i] = (time.perf_counter_ns() - start) / 1e6
    first, second = np.median(taken, axis=1)
    return {"ms": float(first), "model_ms": float(second), "share_of_model": float(first / second)}


def _same(image: np.ndarray) -> np.ndarray:
    return image

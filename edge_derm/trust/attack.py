"""Universal perturbations: one small picture r that, added to any image, changes what a classifier says.

After Minagi, Hirano, Takemoto, J. Imaging 2022, 8(2):38. Three small pieces, ``step``, ``accept`` and ``project``; ``craft``
puts them together, clips to valid pixels and judges success itself. Labels are the classifier's own answers on the clean
images: a true label is nowhere an argument. No framework: the classifier comes as two callables.

Ours: norms are of pixels from 0 to 255; the batched order; and when an image is done. With ``batch=1`` the order is the paper's,
one image after the other; with ``batch=B`` the steps of B images are taken from the same r, those that flip their own image are
accepted, and the sign of their sum is one step. The paper leaves an image alone once its label has flipped; here it goes on to
act until the classifier is sure of it (``confidence``), which makes r hold for images it was not made from. ``batch=1,
confidence=0`` is the paper's algorithm, step by step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Callable

import numpy as np

from edge_derm.errors import DataError

# Real-valued pixels, float32 [N, S, S, 3] in 0 … 255 → probabilities [N, C]; with labels int64 [N] → derivative of each
# image's cross-entropy by its pixels, float32 [N, S, S, 3].
Predict = Callable[[np.ndarray], np.ndarray]
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


PILOT, AIMS = 128, 12  # of ``craft_any``


@dataclass(frozen=True)
class Perturbation:
    """A universal perturbation and how it was made."""

    pixels: np.ndarray  # float32 [S, S, 3], in units of a pixel
    norm: float  # 2 or math.inf
    radius: float  # ξ; the norm of ``pixels`` never exceeds it
    target: int | None  # the class wanted; None: any other than the answer on the clean image
    images: int = 0  # crafted from so many; 0: a random control
    history: tuple[float, ...] = ()  # share of those images that it moves, after each pass
    aim: int | None = None  # the class that one without a target was made towards


def radius_of(images: np.ndarray, *, norm: float, zeta: float) -> float:
    """ξ = ζ · mean ‖x‖_p over images, uint8 [N, S, S, 3]."""
    return zeta * float(np.mean([size_of(image, norm) for image in images]))


def size_of(r: np.ndarray, norm: float) -> float:
    """‖r‖_p in float64."""
    flat = np.abs(np.asarray(r, np.float64)).ravel()
    return float(flat.max(initial=0)) if math.isinf(norm) else math.sqrt(float(flat @ flat))


def step(gradient: np.ndarray, size: float, *, targeted: bool) -> np.ndarray:
    """One sign-gradient step: up the loss of the present answer, or down the loss of the target."""
    return np.sign(gradient).astype(np.float32) * np.float32(-size if targeted else size)


def accept(answers: np.ndarray, clean: np.ndarray, target: int | None) -> np.ndarray:
    """bool [N]: which images are where the attacker wants them, given the answers now and on the clean images."""
    return answers != clean if target is None else answers == target


def project(r: np.ndarray, *, norm: float, radius: float) -> np.ndarray:
    """The nearest point of the ball ‖r‖_p ≤ radius, float32; never outside it, rounding included."""
    if math.isinf(norm):
        bound = np.float32(radius)
        if float(bound) > radius:
            bound = np.nextafter(bound, np.float32(0))
        return np.clip(r, -bound, bound).astype(np.float32)
    inside, shrink = np.asarray(r, np.float32), 1.0
    while size_of(inside, 2) > radius:
        inside = (np.asarray(r, np.float64) * (radius / size_of(r, 2) * shrink)).astype(np.float32)
        shrink -= 2**-24
    return inside


def add(images: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Perturbed images, float32 in 0 … 255; ``r`` is one perturbation, or one an image.

    Raises:
        DataError: ``audit-shape``: made for images of another size; nothing is stretched or repeated to fit.
    """
    if images.shape[-3:] != r.shape[-3:]:
        raise DataError(
            f"expected images of the perturbation's size {list(r.shape[-3:])}, got {list(images.shape[-3:])}: "
            "craft it again at the size of this model's input",
            code="audit-shape",
        )
    return np.clip(images.astype(np.float32) + r, 0, 255)


def craft(
    images: np.ndarray,
    *,
    predict: Predict,
    gradient: Gradient,
    norm: float,
    radius: float,
    target: int | None = None,
    share: float = 0.2,
    passes: int = 3,
    batch: int = 16,
    confidence: float = 0.95,
    seed: int = 0,
) -> Perturbation:
    """Make a universal perturbation from unlabelled images.

    Args:
        images: uint8 [N, S, S, 3], medical or any other; flat and grey ones are fine, they only teach less.
        norm: 2 or ``math.inf``. radius: ξ in pixel units, above 0.
        share: step size as a share of the radius a pixel has (ξ for L∞, ξ/√d for L2).
        passes: over the images, in a new random order each time; with ``confidence`` 0 it ends once all are moved.
        batch: images a step; 1 is the paper's order.
        confidence: an image is left alone once it is flipped and the target has this probability (any other label than the
            clean one has, together, where there is no target); 0: once it is flipped.

    Returns:
        The r after the pass that moved most of ``images``.

    Raises:
        DataError: ``audit-empty`` (no image), ``audit-norm``, ``audit-radius``.
    """
    _check(images, norm, radius)
    size = share * (radius if math.isinf(norm) else radius / math.sqrt(images[0].size))
    clean = predict(images.astype(np.float32)).argmax(axis=1)
    rng = np.random.default_rng(seed)
    r = best = np.zeros(images.shape[1:], np.float32)
    history: list[float] = []
    for _ in range(passes):
        order = rng.permutation(len(images))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            r = _improve(
                r, images[rows], clean[rows], predict, gradient, norm, radius, target, size, confidence
            )
        moved = float(accept(predict(add(images, r)).argmax(axis=1), clean, target).mean())
        best = r if not history or moved > max(history) else best
        history.append(moved)
        if moved == 1 and confidence == 0:
            break
    return Perturbation(best, norm, radius, target, len(images), tuple(history))


def craft_any(
    images: np.ndarray, *, predict: Predict, gradient: Gradient, seed: int = 0, **choices: Any
) -> Perturbation:
    """A non-targeted perturbation of an attacker who does not mind the way: ``craft``'s, or one towards some class.

    Ours. Any other answer will do, and all images pushed towards one class are often moved more easily than each away from its own.
    One pass over ``PILOT`` images towards each class (the ``AIMS`` it makes most probable, where there are more) finds the class;
    the one made towards that from all images is taken where it moves more of them than the plain one does.

    Args:
        images, predict, gradient, seed, choices: as for ``craft``.

    Returns:
        One with ``target`` None, and ``aim`` where it was made towards a class.
    """
    plain = craft(images, predict=predict, gradient=gradient, seed=seed, **choices)
    clean = predict(images.astype(np.float32)).argmax(axis=1)
    few = images[np.random.default_rng([seed, 11]).permutation(len(images))[:PILOT]]
    gained = predict(add(few, plain.pixels)).mean(axis=0)

    def towards(made_from: np.ndarray, aim: int, **more: Any) -> Perturbation:
        given = {**choices, **more}
        return craft(made_from, predict=predict, gradient=gradient, target=aim, seed=seed, **given)

    def moved(r: Perturbation, judged: np.ndarray, before: np.ndarray) -> float:
        return float(accept(predict(add(judged, r.pixels)).argmax(axis=1), before, None).mean())

    said = predict(few.astype(np.float32)).argmax(axis=1)
    aims = np.argsort(-gained, kind="stable")[:AIMS].tolist()
    aim = max(aims, key=lambda c: moved(towards(few, c, passes=1), few, said))
    aimed = towards(images, aim)
    share = moved(aimed, images, clean)
    if share <= moved(plain, images, clean):
        return plain
    return replace(aimed, target=None, aim=aim, history=(share,))


def _improve(
    r: np.ndarray,
    images: np.ndarray,
    clean: np.ndarray,
    predict: Predict,
    gradient: Gradient,
    norm: float,
    radius: float,
    target: int | None,
    size: float,
    confidence: float,
) -> np.ndarray:
    """r after one batch: images that are not done yet each take a step; those that it moves decide."""
    p = predict(add(images, r))
    sure = p[:, target] if target is not None else 1 - p[np.arange(len(p)), clean]
    waiting = ~(accept(p.argmax(axis=1), clean, target) & (sure >= confidence))
    images, clean = images[waiting], clean[waiting]
    if not len(images):
        return r
    labels = clean if target is None else np.full(len(images), target, np.int64)
    steps = step(gradient(add(images, r), labels), size, targeted=target is not None)
    moved = accept(predict(add(images, r + steps)).argmax(axis=1), clean, target)
    if not moved.any():
        return r
    together = np.sign(steps[moved].sum(axis=0)) * np.float32(size)
    return project(r + together, norm=norm, radius=radius)


def control(shape: tuple[int, ...], *, norm: float, radius: float, kind: str, seed: int = 0) -> Perturbation:
    """A random perturbation of norm ξ: what noise of that size does by itself.

    Args:
        kind: ``direction`` (L2: uniform on the sphere), ``signs`` (L∞: ±ξ at every value, the hardest), ``box`` (L∞: uniform
            in the box, scaled so that its largest value is ξ).
    """
    rng = np.random.default_rng([seed, 7])
    if kind == "signs":
        r = rng.choice([-radius, radius], shape)
    elif kind == "box":
        r = rng.uniform(-1, 1, shape)
        r *= radius / np.abs(r).max()
    else:
        r = rng.normal(size=shape)
        r *= radius / size_of(r, 2)
    return Perturbation(project(r, norm=norm, radius=radius), norm, radius, None)


def controls_of(norm: float) -> tuple[str, ...]:
    """The kinds of control of a norm."""
    return ("signs", "box") if math.isinf(norm) else ("direction",)


def _check(images: np.ndarray, norm: float, radius: float) -> None:
    if not len(images):
        raise DataError("expected images to craft a perturbation from, got none", code="audit-empty")
    if norm not in (2, math.inf):
        raise DataError(f"norm: expected 2 or inf, got {norm}", code="audit-norm")
    if not (radius > 0 and math.isfinite(radius)):
        raise DataError(
            f"radius: expected a positive number of pixel units, got {radius}: black images have no norm to take a share of",
            code="audit-radius",
        )

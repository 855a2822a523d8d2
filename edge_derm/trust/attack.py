"""Universal perturbations: one small picture r that, added to any image, changes what a classifier says.

After Minagi, Hirano, Takemoto, J. Imaging 2022, 8(2):38. Three small pieces, ``step``, ``accept`` and ``project``; ``craft``
puts them together, clips to valid pixels and judges success itself. Labels are the classifier's own answers on the clean
images: a true label is nowhere an argument. No framework: the classifier comes as two callables.

Ours: norms are of pixels from 0 to 255; the batched order; and when an image is done. With ``batch=1`` the order is the paper's,
one image after the other; with ``batch=B`` the steps of B images are taken from the same r, and the sign of their sum is one
step. The paper leaves an image alone once its label has flipped, and takes a step only if that flips it; here (``confidence``
above 0) it goes on to act until the classifier is sure of it, which makes r hold for images it was not made from, and every step
towards that counts. ``batch=1, confidence=0`` is the paper's algorithm, step by step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Callable

import numpy as np

from edge_derm.errors import DataError

# Real-valued pixels, float32 [N, S, S, 3] in 0 … 255 → probabilities [N, C]; with labels int64 [N] → those, which it needs anyway,
# and the derivative of each image's cross-entropy by its pixels, float32 [N, S, S, 3].
Predict = Callable[[np.ndarray], np.ndarray]
Gradient = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


LATEST = 128  # images that ``enough`` looks back over
PILOT, AIMS = 128, 12  # of ``craft_any``


@dataclass(frozen=True)
class Perturbation:
    """A universal perturbation and how it was made."""

    pixels: np.ndarray  # float32 [S, S, 3], in units of a pixel
    norm: float  # 2 or math.inf
    radius: float  # ξ; the norm of ``pixels`` never exceeds it
    target: int | None  # the class wanted; None: any other than the answer on the clean image
    images: int = 0  # crafted from so many; 0: a random control
    history: tuple[float, ...] = ()  # share of those images that it moves, after each of several passes
    aim: int | None = None  # the class that one without a target was made towards


def radius_of(images: np.ndarray, *, norm: float, zeta: float) -> float:
    """ξ = ζ · mean ‖x‖_p over images, uint8 [N, S, S, 3]."""
    return zeta * float(np.mean([size_of(image, norm) for image in images]))


def size_of(r: np.ndarray, norm: float) -> float:
    """‖r‖_p in float64."""
    if math.isinf(norm):
        return float(np.abs(np.asarray(r, np.float64)).max(initial=0))
    # An inner product would wake the threads of the BLAS.
    return math.sqrt(float(np.square(r, dtype=np.float64).sum()))


def step(gradient: np.ndarray, size: float, *, targeted: bool) -> np.ndarray:
    """One sign-gradient step: up the loss of the present answer, or down the loss of the target."""
    signs = np.sign(gradient, dtype=np.float32)
    signs *= np.float32(-size if targeted else size)
    return signs


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
    seen = np.add(images, r, dtype=np.float32)
    return np.clip(seen, 0, 255, out=seen)


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
    enough: float = 1.0,
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
            clean one has, together, where there is no target); 0: once it is flipped, by steps that flip it at once.
        enough: end early, once r moved more than this share of the last ``LATEST`` images before they acted, which in the first
            pass it was not made from; 1: never.

    Returns:
        The r after the pass that moved most of ``images``; ``history`` is empty after a single pass, which nothing is judged by.

    Raises:
        DataError: ``audit-empty`` (no image), ``audit-norm``, ``audit-radius``.
    """
    _check(images, norm, radius)
    size = share * (radius if math.isinf(norm) else radius / math.sqrt(images[0].size))
    rule = _Rule(predict, gradient, norm, radius, size, target, confidence)
    # what an image is pushed away from, or towards
    labels = _answers(predict, images) if target is None else np.full(len(images), target, np.int64)
    rng = np.random.default_rng(seed)
    r = best = np.zeros(images.shape[1:], np.float32)
    history: list[float] = []
    for _ in range(passes):
        order = rng.permutation(len(images))
        r, ended = _pass(r, images, labels, order, rule, batch=batch, enough=enough)
        if passes == 1:  # nothing to choose from
            return Perturbation(r, norm, radius, target, len(images))
        moved = float(accept(_answers(predict, add(images, r)), labels, target).mean())
        best = r if not history or moved > max(history) else best
        history.append(moved)
        if ended or (moved == 1 and confidence == 0):
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
    clean = _answers(predict, images)
    few = images[np.random.default_rng([seed, 11]).permutation(len(images))[:PILOT]]
    gained = predict(add(few, plain.pixels)).mean(axis=0)

    def towards(made_from: np.ndarray, aim: int, **more: Any) -> Perturbation:
        given = {**choices, **more}
        return craft(made_from, predict=predict, gradient=gradient, target=aim, seed=seed, **given)

    def moved(r: Perturbation, judged: np.ndarray, before: np.ndarray) -> float:
        return float(accept(_answers(predict, add(judged, r.pixels)), before, None).mean())

    said = _answers(predict, few)
    aims = np.argsort(-gained, kind="stable")[:AIMS].tolist()
    aim = max(aims, key=lambda c: moved(towards(few, c, passes=1), few, said))
    aimed = towards(images, aim)
    share = moved(aimed, images, clean)
    if share <= moved(plain, images, clean):
        return plain
    return replace(aimed, target=None, aim=aim, history=(share,))


@dataclass(frozen=True)
class _Rule:
    """Who is asked, what a step is and when an image is done: as for ``craft``; ``size`` of a step in units of a pixel."""

    predict: Predict
    gradient: Gradient
    norm: float
    radius: float
    size: float
    target: int | None
    confidence: float


def _pass(
    r: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    rule: _Rule,
    *,
    batch: int,
    enough: float,
) -> tuple[np.ndarray, bool]:
    """r after the images in this order, and whether it ended early: more than ``enough`` of the latest were moved as they came."""
    waiting, latest = 1.0, np.zeros(0, bool)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        r, moved, waiting = _improve(r, images[rows], labels[rows], rule, together=waiting > 0.5)
        latest = np.concatenate([latest, moved])[-LATEST:]
        if len(latest) == LATEST and latest.mean() > enough:
            return r, True
    return r, False


def _improve(
    r: np.ndarray, images: np.ndarray, labels: np.ndarray, rule: _Rule, *, together: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """r after one batch, which images it moved before, and the share that was not done: those each take a step.

    Args:
        labels: what each image is pushed towards, or away from. together: ask for answers and slopes in one, which takes less
            time where most images are expected to need their slopes.
    """
    targeted, seen = rule.target is not None, add(images, r)
    p, slopes = rule.gradient(seen, labels) if together else (rule.predict(seen), None)
    sure = p[np.arange(len(p)), labels]
    before = accept(p.argmax(axis=1), labels, rule.target)
    waiting = ~(before & ((sure if targeted else 1 - sure) >= rule.confidence))
    if not waiting.any():
        return r, before, 0.0
    slopes = rule.gradient(seen[waiting], labels[waiting])[1] if slopes is None else slopes[waiting]
    steps = step(slopes, rule.size, targeted=targeted)
    if rule.confidence == 0:
        then = _answers(rule.predict, add(images[waiting], r + steps))
        steps = steps[accept(then, labels[waiting], rule.target)]
    if len(steps):
        joint = step(steps.sum(axis=0), rule.size, targeted=False)
        r = project(r + joint, norm=rule.norm, radius=rule.radius)
    return r, before, float(waiting.mean())


def _answers(predict: Predict, pixels: np.ndarray) -> np.ndarray:
    return predict(pixels.astype(np.float32, copy=False)).argmax(axis=1)


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

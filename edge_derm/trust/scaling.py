"""From a model's logits to probabilities that happen as often as they say: four ways to rescale, and the choice among them.

``temperature`` divides the logits. ``prior`` also adds a multiple of the log class frequencies: a model trained for balanced
classes (weighted, resampled or logit-adjusted, as ``train`` does) states the probabilities of a world where every class is as
frequent, and no temperature undoes that. ``shift`` gives each class a shift of its own, drawn towards ``prior`` where a class
has few images; ``vector`` a scale as well. All but ``temperature`` can change which class is most probable. What a shift did
can be undone on the probabilities themselves (``Scaling.weights``), so the model's own answer can still be the one that is
named; what ``vector`` did cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np

from edge_derm.trust.fitting import COLDEST, HOTTEST, fit_temperature

METHODS = ("temperature", "prior", "shift", "vector")
KEEPING = METHODS[:3]  # those that can leave the model's own answer the one that is named
# Per squared step away from ``prior``; chosen by cross-validation on HAM10000: ours.
RIDGE = {"shift": 0.001, "vector": 0.003}
PULL = 1e-4  # of ``prior`` towards a temperature of 1 and the frequencies themselves, so that separable data stay finite
GAIN = 0.0005  # nats of likelihood that a richer method must gain in cross-fitting before ``choose`` takes it: ours


@dataclass(frozen=True)
class Scaling:
    """logits → logits / temperature · scale + shift, a softmax behind it."""

    temperature: float = 1.0
    scale: tuple[float, ...] | None = None
    shift: tuple[float, ...] | None = None

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The largest of weight · probability is the largest of the logits; None where the most probable class is it.

        Raises:
            ValueError: a ``scale`` a class, which no weights undo.
        """
        if self.scale is not None:
            raise ValueError(
                "expected one temperature for all classes, got a scale for each: weights do not undo it"
            )
        if self.shift is None:
            return None
        return tuple(np.exp(min(self.shift) - np.asarray(self.shift)).tolist())

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Log-probabilities float64 [N, C]."""
        z = logits.astype(np.float64) / self.temperature
        z = z if self.scale is None else z * np.asarray(self.scale)
        return log_softmax(z if self.shift is None else z + np.asarray(self.shift))


def log_softmax(z: np.ndarray) -> np.ndarray:
    """Row-wise logarithm of the softmax, float64 [N, C]."""
    z = z - z.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


def fit(logits: np.ndarray, targets: np.ndarray, method: str) -> Scaling:
    """The scaling of least (for ``vector``, penalised) negative log-likelihood.

    Args:
        logits: float [N, C]. targets: int64 [N]. method: one of ``METHODS``.
    """
    z = logits.astype(np.float64)
    if method == "temperature":
        return Scaling(fit_temperature(z, targets))
    sharpness, shift = _fit_prior(z, targets)
    if method == "prior":
        return Scaling(1 / sharpness, None, tuple(shift.tolist()))
    if method == "shift":
        sharpness, shift = _fit_shift(z, targets, sharpness, shift)
        return Scaling(1 / sharpness, None, tuple(shift.tolist()))
    scales, shift = _fit_vector(z, targets, sharpness, shift)
    return Scaling(1 / sharpness, tuple((scales / sharpness).tolist()), tuple(shift.tolist()))


def cross_fit(
    logits: np.ndarray, targets: np.ndarray, folds: Sequence[np.ndarray], method: str
) -> np.ndarray:
    """Log-probabilities [N, C] of every image by the scaling fitted on the folds (index arrays) it is not in."""
    out = np.empty(logits.shape, np.float64)
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(targets)), fold)
        out[fold] = fit(logits[rest], targets[rest], method).apply(logits[fold])
    return out


def choose(
    logits: np.ndarray, targets: np.ndarray, folds: Sequence[np.ndarray], methods: Sequence[str] = KEEPING
) -> str:
    """The simplest of the methods that no richer one beats by ``GAIN`` nats an image in cross-fitting."""
    losses = {name: loss(cross_fit(logits, targets, folds, name), targets) for name in methods}
    best = methods[0]
    for name in methods[1:]:
        if losses[name] < losses[best] - GAIN:
            best = name
    return best


def loss(log_p: np.ndarray, targets: np.ndarray) -> float:
    """Mean negative log-likelihood in nats."""
    return float(-log_p[np.arange(len(targets)), targets].mean())


def log_frequencies(targets: np.ndarray, classes: int) -> np.ndarray:
    """Centred logarithms of the class frequencies, half an image added to each class."""
    values = np.log(np.bincount(targets, minlength=classes) + 0.5)
    return np.asarray(values - values.mean())


def _fit_prior(z: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Sharpness (1 / temperature) t and shift β · log frequencies."""
    prior = log_frequencies(targets, z.shape[1])
    centre = np.ones(2)

    def derivatives(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        log_p = log_softmax(z * theta[0] + prior * theta[1])
        p = np.exp(log_p)
        own = np.arange(len(targets)), targets
        means = np.stack([(p * z).sum(axis=1), p @ prior], axis=1)
        true = np.stack([z[own], prior[targets]], axis=1)
        second = np.array(
            [
                [(p * z * z).sum(), (p * z * prior).sum()],
                [(p * z * prior).sum(), (p * prior**2).sum()],
            ]
        )
        hessian = (second - means.T @ means) / len(z) + 2 * PULL * np.eye(2)
        value = -log_p[own].mean() + PULL * ((theta - centre) ** 2).sum()
        return float(value), (means - true).mean(axis=0) + 2 * PULL * (theta - centre), hessian

    sharpness, strength = newton(derivatives, centre)
    return float(np.clip(sharpness, 1 / HOTTEST, 1 / COLDEST)), strength * prior


def _fit_shift(
    z: np.ndarray, targets: np.ndarray, sharpness: float, shift: np.ndarray
) -> tuple[float, np.ndarray]:
    """Sharpness and shifts by class, drawn towards those given."""
    n, classes = z.shape
    centre = np.concatenate([[sharpness], shift])
    one_hot = np.eye(classes)[targets]

    def derivatives(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        log_p = log_softmax(z * theta[0] + theta[1:])
        p = np.exp(log_p)
        mean = (p * z).sum(axis=1)
        hessian = np.empty((classes + 1, classes + 1))
        hessian[0, 0] = ((p * z * z).sum(axis=1) - mean**2).mean()
        hessian[0, 1:] = hessian[1:, 0] = (p * (z - mean[:, None])).mean(axis=0)
        hessian[1:, 1:] = np.diag(p.mean(axis=0)) - p.T @ p / n
        error = p - one_hot
        gradient = np.concatenate([[(z * error).sum(axis=1).mean()], error.mean(axis=0)])
        return _drawn(theta - centre, RIDGE["shift"], -(one_hot * log_p).sum() / n, gradient, hessian)

    theta = newton(derivatives, centre)
    return float(np.clip(theta[0], 1 / HOTTEST, 1 / COLDEST)), theta[1:]


def _drawn(
    away: np.ndarray, ridge: float, value: float, gradient: np.ndarray, hessian: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """A loss and its derivatives with ``ridge`` · ‖away‖² added."""
    return (
        float(value + ridge * (away**2).sum()),
        gradient + 2 * ridge * away,
        hessian + 2 * ridge * np.eye(len(away)),
    )


def _fit_vector(
    z: np.ndarray, targets: np.ndarray, sharpness: float, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and shifts by class, drawn towards (sharpness, shift)."""
    n, classes = z.shape
    centre = np.concatenate([np.full(classes, sharpness), shift])
    one_hot = np.eye(classes)[targets]

    def derivatives(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        log_p = log_softmax(z * theta[:classes] + theta[classes:])
        p = np.exp(log_p)
        joint = np.concatenate([z * p, p], axis=1)
        hessian = -joint.T @ joint / n
        corner = np.diag((z * p).mean(axis=0))
        hessian += np.block([[np.diag((z * z * p).mean(axis=0)), corner], [corner, np.diag(p.mean(axis=0))]])
        error = p - one_hot
        gradient = np.concatenate([(z * error).mean(axis=0), error.mean(axis=0)])
        return _drawn(theta - centre, RIDGE["vector"], -(one_hot * log_p).sum() / n, gradient, hessian)

    theta = newton(derivatives, centre)
    return np.clip(theta[:classes], 1e-3 * sharpness, None), theta[classes:]


def newton(
    derivatives: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]], start: np.ndarray
) -> np.ndarray:
    """The minimum of a strictly convex function by Newton's steps, halved while they do not descend.

    Args:
        derivatives: point → value, gradient, Hessian.
    """
    theta = start.astype(np.float64)
    value, gradient, hessian = derivatives(theta)
    for _ in range(100):
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < 1e-16:
            break
        size = 1.0
        while True:
            trial = derivatives(theta - size * step)
            if trial[0] <= value - 1e-4 * size * (gradient @ step) or size < 1e-9:
                break
            size /= 2
        theta = theta - size * step
        value, gradient, hessian = trial
    return theta

"""One training step, compiled by whichever backend Keras runs on.

A step: the gradient of the session's loss, the optimizer, what must hold of the weights (``Session.settle``), the moving average.
TensorFlow's step changes Keras' variables in place. JAX knows only functions, so its step takes the values of all variables and
gives them back; between steps they stay on the device, and ``store`` puts them into the variables when somebody looks at them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from edge_derm.errors import ModelError


def compiled(session: Any) -> Any:
    """The step of this backend: ``load()`` before the first of an epoch, then (images, targets, rate, kept, which) → loss,
    and ``store()`` before anything else reads a variable.

    Raises:
        ModelError: ``backend-training``.
    """
    steps = {"tensorflow": TensorFlowStep, "jax": JaxStep}
    backend = keras.backend.backend()
    if backend not in steps:
        raise ModelError(
            f"training: expected Keras on {' or '.join(steps)}, got {backend}: set KERAS_BACKEND",
            code="backend-training",
        )
    return steps[backend](session)


class TensorFlowStep:
    """In place."""

    def __init__(self, session: Any) -> None:
        import tensorflow as tf

        self.session, self.tf = session, tf
        self.run = tf.function(self._run)

    def load(self) -> None:
        """Nothing: the variables are what the step works on."""

    store = load

    def __call__(self, images: np.ndarray, targets: np.ndarray, rate: float, kept: float, which: int) -> Any:
        self.session.optimizer.learning_rate.assign(rate)
        constant = self.tf.constant
        return self.run(constant(images), constant(targets), constant(kept, self.tf.float32), constant(which))

    def _run(self, images: Any, targets: Any, kept: Any, which: Any) -> Any:
        session, tf = self.session, self.tf
        r = session.bank.values.value[which] if session.bank else tf.zeros(())
        with tf.GradientTape() as tape:
            tape.watch(r)
            loss = session.loss(images, targets, r)
        variables = session.live.trainable_variables
        slopes, up = tape.gradient(loss, (variables, r))
        session.optimizer.apply_gradients(zip(slopes, variables))
        if session.bank:
            session.bank.ascend(which, r, up)
        session.settle()
        for average, live in averaged(session):
            average.assign(average * kept + live * (1 - kept))
        return loss


class JaxStep:
    """As a function of every value it reads: weights, statistics, optimizer, average, perturbations, teachers."""

    def __init__(self, session: Any) -> None:
        import jax

        self.session, self.jax = session, jax
        self.trained = list(session.live.trainable_variables)
        self.seen = list(session.live.non_trainable_variables)  # statistics, and the state of dropout's draws
        self.tuned = list(session.optimizer.variables)
        self.rate_at = next(i for i, v in enumerate(self.tuned) if v is session.optimizer.learning_rate)
        self.pairs = list(averaged(session))
        self.bank = [session.bank.values] if session.bank else []
        self.kept = [
            *self.trained,
            *self.seen,
            *self.tuned,
            *(average for average, _ in self.pairs),
            *self.bank,
        ]
        self.fixed = list(session.fixed)
        self.run = jax.jit(self._run, donate_argnums=0)
        self.values: list[Any] = []

    def load(self) -> None:
        """Take the variables' values as the state; copies, because a step gives its inputs' memory away."""
        copy = self.jax.numpy.array
        self.values = [copy(variable.value) for variable in self.kept]
        self.given = [variable.value for variable in self.fixed]

    def store(self) -> None:
        """Give copies of the state to the variables."""
        for variable, value in zip(self.kept, self.values):
            variable.assign(self.jax.numpy.array(value))

    def __call__(self, images: np.ndarray, targets: np.ndarray, rate: float, kept: float, which: int) -> Any:
        self.values, loss = self.run(
            self.values, self.given, images, targets, np.float32(rate), np.float32(kept), np.int32(which)
        )
        return loss

    def _run(
        self, values: Any, given: Any, images: Any, targets: Any, rate: Any, kept: Any, which: Any
    ) -> tuple[list[Any], Any]:
        session, parts = self.session, iter(values)
        trained, seen, tuned = (
            [next(parts) for _ in group] for group in (self.trained, self.seen, self.tuned)
        )
        means = [next(parts) for _ in self.pairs]
        bank = [next(parts) for _ in self.bank]
        tuned[self.rate_at] = rate

        def loss_of(weights: list[Any], r: Any) -> tuple[Any, list[Any]]:
            state = [*zip(self.trained, weights), *zip(self.seen, seen), *zip(self.fixed, given)]
            with keras.StatelessScope(state, collect_losses=True) as scope:
                loss = session.loss(images, targets, r)
            return loss, [scope.get_current_value(variable) for variable in self.seen]

        r = bank[0][which] if bank else np.float32(0)
        found = self.jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(trained, r)
        (loss, seen), (slopes, up) = found
        trained, tuned = session.optimizer.stateless_apply(tuned, slopes, trained)
        state = [*zip(self.trained, trained), *zip(self.seen, seen), *zip(self.bank, bank)]
        with keras.StatelessScope(state) as scope:
            if session.bank:
                session.bank.ascend(which, r, up)
            session.settle()
            trained = [scope.get_current_value(variable) for variable in self.trained]
            bank = [scope.get_current_value(variable) for variable in self.bank]
            lives = [scope.get_current_value(live) for _, live in self.pairs]
        means = [mean * kept + live * (1 - kept) for mean, live in zip(means, lives)]
        return [*trained, *seen, *tuned, *means, *bank], loss


def averaged(session: Any) -> list[tuple[Any, Any]]:
    """(variable of the average, the live one) of every weight that is a real number."""
    pairs = zip(session.model.weights, session.live.weights)
    return [(average, live) for average, live in pairs if average.dtype == "float32"]

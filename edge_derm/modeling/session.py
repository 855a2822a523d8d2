"""What lives while a run is trained: pixels, the network and its average, the optimizer, one epoch."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import keras
import numpy as np
from keras import ops

from edge_derm.data import Dataset, Split
from edge_derm.errors import ModelError
from edge_derm.modeling import architecture, hardening, pretrained, recipe, scoring, stepping
from edge_derm.modeling.augmentation import augment
from edge_derm.modeling.checkpoint import State
from edge_derm.modeling.normalising import trained_twin
from edge_derm.modeling.recipe import STORED, TrainConfig

WORKERS, AHEAD = 2, 4  # threads that prepare batches, and how many batches they keep ready

# Called after each step with the steps done so far and the session; it looks and changes nothing.
Watcher = Callable[[int, "Session"], None]


class Session:
    """A run in memory. Its epochs are functions of the state before them; ``deadline`` alone may cut one short."""

    label_weight = 1.0  # of the labels in the loss, beside ``pull``
    fixed: Sequence[keras.Variable] = ()  # that the loss reads and no step changes (a teacher's weights)

    def __init__(
        self, dataset: Dataset, parts: Split, config: TrainConfig, *, start: keras.Model | None = None
    ) -> None:
        self.config, self.labels, self.dataset = config, dataset.labels, dataset
        keras.utils.set_random_seed(config.seed)
        self.members, judged = parts.parts["train"], parts.parts["validation"]
        self.stored = np.empty((0, 0, 0, 3), np.uint8)  # read by the first epoch
        self.targets = dataset.targets(self.members)
        self.judged, self.judged_targets = dataset.images(config.size_px, judged), dataset.targets(judged)
        self.model = start or _fresh(
            config, self.judged[:: -(-len(judged) // 64)], classes=len(dataset.labels)
        )
        self.live = trained_twin(self.model)  # ``model`` holds the average
        self.logits = architecture.logits_of(self.live)
        self.optimizer = keras.optimizers.AdamW(config.peak, weight_decay=config.weight_decay)
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.optimizer.build(self.live.trainable_variables)
        frequency = np.bincount(self.targets, minlength=len(dataset.labels)) / len(self.targets)
        self.adjustment = (config.adjustment * np.log(np.maximum(frequency, 1e-6))).astype(np.float32)
        self.bank = (
            hardening.Bank(self.judged, zeta=config.harden, seed=config.seed) if config.harden else None
        )
        self.step: Any = None  # compiled by the first epoch, when all that a loss reads is there
        self.watchers: Sequence[Watcher] = ()
        self.deadline = math.inf  # on ``time.monotonic``'s clock
        self._begun = time.monotonic(), time.process_time()
        self._spent = dict.fromkeys(("waiting", "stepping", "judging"), 0.0)

    def fresh(self) -> State:
        return State(
            epoch=0,
            epochs=self.config.epochs,
            live=self.live.get_weights(),
            average=self.model.get_weights(),
            optimizer=self._optimizer_values(),
        )

    def restore(self, state: State) -> None:
        self.live.set_weights(state.live)
        self.model.set_weights(state.average)
        for variable, value in zip(self.optimizer.variables, state.optimizer):
            variable.assign(value)

    def epoch(self, state: State) -> State:
        """One pass over the training images and one look at the validation images."""
        for layer in self.live.layers:
            if isinstance(layer, keras.layers.Dropout):  # its draws, too, are a function of the epoch alone
                layer.seed_generator.state.assign([self.config.seed, state.epoch])
        if self.bank:
            self.bank.begin(state.epoch)
        self.step = self.step or stepping.compiled(self)
        self.step.load()
        losses, clock = [], time.monotonic()
        for number, (images, targets) in enumerate(self.batches(state.epoch, state.epochs)):
            clock = self._lap("waiting", clock)
            done = state.epoch * self.steps + number
            rate = recipe.rate(self.config, done, self.steps, state.epochs)
            kept = recipe.keep(self.config, done, self.steps)
            losses.append(self.step(images, targets, rate, kept, number % hardening.BANK))
            if self.watchers:
                self.step.store()
            for look in self.watchers:
                look(done + 1, self)
            clock = self._lap("stepping", clock)
            if clock > self.deadline:
                break
        self.step.store()
        loss = float(np.mean([np.asarray(value) for value in losses]))
        if not math.isfinite(loss):
            raise ModelError(
                f"epoch {state.epoch + 1}: the loss is {loss}: lower the learning rate",
                code="training-diverged",
            )
        figures = scoring.score(
            scoring.probabilities(self.model, self.judged), self.judged_targets, self.labels
        )
        self._lap("judging", clock)
        return state.after(
            loss,
            figures,
            live=self.live.get_weights(),
            average=self.model.get_weights(),
            optimizer=self._optimizer_values(),
        )

    def _lap(self, what: str, since: float) -> float:
        """Count the time since then as spent on that; the time now."""
        now = time.monotonic()
        self._spent[what] += now - since
        return now

    def profile(self) -> dict[str, Any]:
        """Where the seconds of this session went: ``waiting`` for views (the input pipeline was slower than the steps),
        ``stepping``, ``judging``; and of ``cores``, how many its process kept busy. Steps of JAX end in a later wait.
        """
        seconds, processor = time.monotonic() - self._begun[0], time.process_time() - self._begun[1]
        return {
            "cores": os.cpu_count(),
            "busy": processor / seconds,
            "seconds": seconds,
            "processor_seconds": processor,
            **self._spent,
        }

    @property
    def batch(self) -> int:
        """Images a step."""
        return self.config.batch or (32 if len(self.targets) >= 3000 else 16)

    @property
    def steps(self) -> int:
        return max(1, len(self.targets) // self.batch)

    def batches(self, epoch: int, epochs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Augmented batches of an epoch, float32 [N, V, V, 3] and int64 [N], prepared beside the steps."""
        config = self.config
        side = recipe.side(config, epoch, epochs)
        self._store(round(side * STORED))
        order = np.random.default_rng([config.seed, epoch]).permutation(len(self.targets))
        order = np.resize(order, self.steps * self.batch).reshape(self.steps, -1)

        def prepared(number: int) -> tuple[np.ndarray, np.ndarray]:
            rows = order[number]
            seed = [config.seed, epoch, number]
            return augment(self.stored[rows], side, seed, config.augmentation), self.targets[rows]

        with ThreadPoolExecutor(WORKERS) as pool:
            waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
            for number in range(self.steps):
                waiting.append(pool.submit(prepared, number))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _store(self, stored_px: int) -> None:
        """Hold the training images at this side."""
        if self.stored.shape[1] != stored_px:
            self.stored = self.dataset.images(stored_px, self.members)

    def loss(self, images: Any, targets: Any, r: Any) -> Any:
        """Of a batch, in training; ``r``: a universal perturbation that every second image carries, where there is a bank."""
        if self.bank:
            images = self.bank.add(images, r)
        raw = self.logits(images, training=True)
        wanted = ops.one_hot(targets, len(self.labels))
        of_labels = keras.losses.categorical_crossentropy(
            wanted, raw + self.adjustment, from_logits=True, label_smoothing=self.config.label_smoothing
        )
        whole = self.label_weight * ops.mean(of_labels) + self.pull(images, raw)
        return whole + sum(self.logits.losses)  # of its layers (attention's)

    def pull(self, images: Any, logits: Any) -> Any:
        """What else a step's loss holds (a session with a teacher says more)."""
        return 0.0

    def settle(self) -> None:
        """What must hold of the weights after every step (a session with a constraint says more)."""
        return None  # TensorFlow cannot trace a function that is nothing but its docstring

    def product(self) -> keras.Model:
        """What the run folder gets."""
        return self.model

    def _optimizer_values(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.optimizer.variables]


def _fresh(config: TrainConfig, pixels: np.ndarray, *, classes: int) -> keras.Model:
    model = architecture.build(
        config.dilation,
        alpha=config.alpha,
        size_px=config.size_px,
        classes=classes,
        dropout=config.dropout,
        dropout_depth=config.dropout_depth,
        attention=config.attention,
    )
    if config.weights:
        pretrained.start_from(model, Path(config.weights), pixels)
    return model

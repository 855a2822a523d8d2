"""Training: the recipe, the loop, and how it goes on after an interruption.

The recipe (each part chosen on a lesion-wise validation part; ``docs/training.md`` has the figures): ImageNet weights where
given; AdamW with warm-up and a cosine to nearly zero; cross-entropy with label smoothing on logits adjusted by the log of
the class frequencies (Menon et al., 2021, https://arxiv.org/abs/2007.07314), which aims at balanced accuracy; strong
symmetries, crops and colour; an exponential moving average of the weights, which is what is judged and kept.

An epoch is a pure function of the state before it and of its number: every order and every augmentation is drawn from
(seed, epoch, batch). The state is written after each epoch, so a killed run goes on where the last epoch ended and ends equal
to one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence, TypeVar

import keras
import numpy as np
import tensorflow as tf

from edge_derm.data import Dataset, Split, split
from edge_derm.data.split import DEFAULT_FRACTIONS
from edge_derm.errors import ModelError
from edge_derm.modeling import architecture, hardening, runs, scoring, stages
from edge_derm.modeling.augmentation import Augmentation, augment
from edge_derm.modeling.checkpoint import State, read_state, write_state

STORED = 1.15  # side of the stored pictures over that of the input, so that a crop loses no detail


@dataclass(frozen=True)
class TrainConfig:
    """Every choice of a run; two runs with equal configurations, data and versions are the same run."""

    variant: str = "mobilenet"
    dilation: dict[str, int] = field(default_factory=dict)
    alpha: float = 0.25
    size_px: int = 128
    epochs: int = 30
    weights: str | None = None  # path of ImageNet weights
    dropout: float = 0.2
    dropout_depth: int = 1  # blocks it reaches back over; 1: the classifier alone
    seed: int = 0
    budget_min: float | None = None
    batch: int | None = None  # None: 32, and 16 for fewer than 3000 training images, which need the steps
    learning_rate: float | None = None  # None: 2e-3 from ImageNet weights, 1e-2 from scratch
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.05
    adjustment: float = 1.0  # times log class frequency, added to the logits in training
    ema_epochs: float = 2.5  # horizon of the moving average of the weights
    patience: int = 15  # epochs without a better validation figure before stopping
    augmentation: Augmentation = field(default_factory=Augmentation)
    attention: bool = False
    harden: float = 0.0  # norm of universal perturbations trained against, as a share of the images'; 0: none


Trained = TypeVar("Trained", bound="Session")

# Called after each epoch, before its state is written, with that state and the model holding the averaged weights.
Callback = Callable[[State, keras.Model], None]


def run(
    dataset: Dataset,
    out: Path,
    *,
    seed: int = 0,
    variant: str = "mobilenet",
    dilation: str | None = None,
    alpha: float = 0.25,
    size_px: int = 128,
    epochs: int | None = None,
    weights: Path | None = None,
    dropout: float | None = None,
    dropout_depth: int = 1,
    budget_min: float | None = None,
    hold_out: float | None = None,
    attention: bool = False,
    harden: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """``train`` with the recipe's defaults for whatever is None, on the default split. See ``train``.

    Args:
        hold_out: share of the lesions that neither trains nor chooses anything: the part ``test`` of the recorded split.
        harden: train against universal perturbations (``modeling.hardening``).
    """
    config = TrainConfig(
        variant=variant if dilation is None else "custom",
        dilation=stages.dilation_map(variant, dilation),
        alpha=alpha,
        size_px=size_px,
        weights=None if weights is None else str(weights),
        seed=seed,
        budget_min=budget_min,
    )
    config = replace(
        config,
        epochs=epochs or config.epochs,
        dropout=config.dropout if dropout is None else dropout,
        dropout_depth=dropout_depth,
        attention=attention,
        harden=hardening.ZETA if harden else 0.0,
    )
    shares = (
        DEFAULT_FRACTIONS
        if not hold_out
        else {**{name: share * (1 - hold_out) for name, share in DEFAULT_FRACTIONS.items()}, "test": hold_out}
    )
    return train(dataset, split(dataset, seed=seed, fractions=shares), config, out, callbacks=callbacks)


def train(
    dataset: Dataset, parts: Split, config: TrainConfig, out: Path, *, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Train, or go on with, a run; write ``model.keras``, ``run.json`` and ``history.csv`` to ``out``; return the record.

    Args:
        parts: needs ``train`` and ``validation``.
        callbacks: called after every epoch.

    Raises:
        ModelError: ``run-differs`` (the folder holds another run), ``variant-…``, ``weights-…``, ``training-diverged``.
        DataError: images that do not decode.
    """
    identity = _identity(dataset, parts, config)

    def told(state: State, session: Session) -> dict[str, Any]:
        return _record(dataset, parts, config, state, session.labels, identity)

    return carry_out(out, identity, lambda: Session(dataset, parts, config), told, callbacks=callbacks)


def carry_out(
    out: Path,
    identity: dict[str, Any],
    make: Callable[[], Trained],
    record_of: Callable[[State, Trained], dict[str, Any]],
    *,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Begin, or go on with, the run that ``identity`` names, to its end in the folder ``out``; return its record.

    Raises:
        ModelError: ``run-differs``, ``training-diverged``.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    finished = _finished(out, identity)
    if finished is not None:
        return finished
    session = make()
    config = session.config
    state = read_state(out / runs.CHECKPOINT, identity) or session.fresh()
    session.restore(state)
    spent = state.seconds
    while not state.stopped(config):
        state = session.epoch(state)
        state = replace(state, seconds=spent + time.monotonic() - started)
        state = replace(state, epochs=_affordable(config, state))
        for callback in callbacks:
            callback(state, session.model)
        write_state(out / runs.CHECKPOINT, state, identity)
    session.adopt_best(state)
    record = record_of(state, session)
    runs.save(out, session.product(), record)
    return record


def probabilities(model: keras.Model, pixels: np.ndarray, *, batch: int = 64) -> np.ndarray:
    """float32 [N, C] of a Keras model on preprocessed images, uint8 [N, S, S, 3]."""
    rows = [
        model.predict_on_batch(pixels[i : i + batch].astype(np.float32) / 128 - 1)
        for i in range(0, len(pixels), batch)
    ]
    return np.concatenate(rows) if rows else np.empty((0, model.output_shape[-1]), np.float32)


class Session:
    """What lives while a run is trained: pixels, model, optimizer, the compiled step."""

    label_weight = 1.0  # of the labels in the loss, beside ``pull``

    def __init__(
        self, dataset: Dataset, parts: Split, config: TrainConfig, *, start: keras.Model | None = None
    ) -> None:
        self.config, self.labels = config, dataset.labels
        keras.utils.set_random_seed(config.seed)
        train_part, judged = parts.parts["train"], parts.parts["validation"]
        self.stored = dataset.images(round(config.size_px * STORED), train_part)
        self.targets = dataset.targets(train_part)
        self.judged, self.judged_targets = dataset.images(config.size_px, judged), dataset.targets(judged)
        self.model = start or _fresh(config, classes=len(dataset.labels))
        self.live = keras.models.clone_model(self.model)  # trained; ``model`` holds the average
        self.live.set_weights(self.model.get_weights())
        self.logits = architecture.logits_of(self.live)
        self.optimizer = keras.optimizers.AdamW(self.peak, weight_decay=config.weight_decay)
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.optimizer.build(self.live.trainable_variables)
        frequency = np.bincount(self.targets, minlength=len(dataset.labels)) / len(self.targets)
        self.adjustment = tf.constant(config.adjustment * np.log(np.maximum(frequency, 1e-6)), tf.float32)
        self.bank = (
            hardening.Bank(self.judged, zeta=config.harden, seed=config.seed) if config.harden else None
        )
        self.step = tf.function(self._step)

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

    def adopt_best(self, state: State) -> None:
        assert state.best is not None
        self.model.set_weights(state.best)

    def epoch(self, state: State) -> State:
        """One pass over the training images and one look at the validation images."""
        for layer in self.live.layers:
            if isinstance(layer, keras.layers.Dropout):  # its draws, too, are a function of the epoch alone
                layer.seed_generator.state.assign([self.config.seed, state.epoch])
        if self.bank:
            self.bank.begin(state.epoch)
        losses = []
        for number, (images, targets) in enumerate(self.batches(state.epoch)):
            done = state.epoch * self.steps + number
            self.optimizer.learning_rate.assign(self.rate(done, state.epochs * self.steps))
            keep, which = tf.constant(self.keep(done), tf.float32), tf.constant(number % hardening.BANK)
            losses.append(self.step(images, targets, keep, which))
        loss = float(np.mean([value.numpy() for value in losses]))
        if not math.isfinite(loss):
            raise ModelError(
                f"epoch {state.epoch + 1}: the loss is {loss}: lower the learning rate",
                code="training-diverged",
            )
        figures = scoring.score(probabilities(self.model, self.judged), self.judged_targets, self.labels)
        return state.after(
            loss,
            figures,
            self.worth(state, figures),
            live=self.live.get_weights(),
            average=self.model.get_weights(),
            optimizer=self._optimizer_values(),
        )

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return self.config.learning_rate or (2e-3 if self.config.weights else 1e-2)

    @property
    def batch(self) -> int:
        """Images a step."""
        return self.config.batch or (32 if len(self.targets) >= 3000 else 16)

    @property
    def steps(self) -> int:
        return max(1, len(self.targets) // self.batch)

    def keep(self, done: int) -> float:
        """Share of the average that stays at step ``done``; less at first, so that the start is forgotten."""
        return min(1 - 1 / (1 + self.config.ema_epochs * self.steps), (1 + done) / (10 + done))

    def rate(self, done: int, total: int) -> float:
        """Learning rate of step ``done``: linear warm-up, then a cosine to a hundredth."""
        warmup = self.config.warmup_epochs * self.steps
        if done < warmup:
            return self.peak * (done + 1) / (warmup + 1)
        progress = min(1.0, (done - warmup) / max(1.0, total - warmup))
        return self.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def batches(self, epoch: int) -> Iterator[tuple[Any, Any]]:
        """Augmented batches of an epoch, prepared on all cores while the step runs."""
        config = self.config
        order = np.random.default_rng([config.seed, epoch]).permutation(len(self.targets))
        order = np.resize(order, self.steps * self.batch)

        def picked() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for number, rows in enumerate(order.reshape(self.steps, -1)):
                seed = np.array([config.seed * 1_000_003 + epoch, number], np.int32)
                yield self.stored[rows], self.targets[rows], seed

        signature = (
            tf.TensorSpec((self.batch, *self.stored.shape[1:]), tf.uint8),
            tf.TensorSpec((self.batch,), tf.int64),
            tf.TensorSpec((2,), tf.int32),
        )
        batches = tf.data.Dataset.from_generator(picked, output_signature=signature)
        batches = batches.map(
            lambda images, targets, seed: (
                augment(images, config.size_px, seed, config.augmentation),
                targets,
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return iter(batches.prefetch(4))

    def _step(self, images: Any, targets: Any, keep: Any, which: Any) -> Any:
        wanted = tf.one_hot(targets, len(self.labels))
        r = self.bank.values[which] if self.bank else tf.zeros(())
        with tf.GradientTape() as tape:
            if self.bank:
                tape.watch(r)
                images = self.bank.add(images, r)
            raw = self.logits(images, training=True)
            logits = raw + self.adjustment
            loss = self.label_weight * tf.reduce_mean(
                keras.losses.categorical_crossentropy(
                    wanted, logits, from_logits=True, label_smoothing=self.config.label_smoothing
                )
            ) + self.pull(images, raw)
        variables = self.live.trainable_variables
        slopes, up = tape.gradient(loss, (variables, r))
        self.optimizer.apply_gradients(zip(slopes, variables))
        if self.bank:
            self.bank.ascend(which, r, up)
        self.settle()
        for average, live in zip(self.model.weights, self.live.weights):
            if average.dtype == "float32":
                average.assign(average * keep + live * (1 - keep))
        return loss

    def pull(self, images: Any, logits: Any) -> Any:
        """What else a step's loss holds (a session with a teacher says more)."""
        return 0.0

    def settle(self) -> None:
        """What must hold of the weights after every step (a session with a constraint says more)."""
        return None  # TensorFlow cannot trace a function that is nothing but its docstring

    def worth(self, state: State, figures: dict[str, Any]) -> float:
        """Of the epoch behind ``state``: the one of the greatest is kept."""
        return scoring.selection(figures)

    def product(self) -> keras.Model:
        """What the run folder gets."""
        return self.model

    def _optimizer_values(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.optimizer.variables]


def _fresh(config: TrainConfig, *, classes: int) -> keras.Model:
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
        start_from(model, Path(config.weights))
    return model


def start_from(model: keras.Model, path: Path) -> None:
    """Load ImageNet weights (.h5, no top), or go on from a finished run (its folder or ``.keras`` file) of the same shape.

    Raises:
        ModelError: ``weights-…``, and what ``runs.load`` raises.
    """
    if path.suffix != ".keras" and not path.is_dir():
        architecture.load_imagenet(model, path)
        return
    values = runs.load(path)[0].get_weights()
    wanted, found = [w.shape for w in model.get_weights()], [v.shape for v in values]
    if wanted != found:
        raise ModelError(
            f"{path}: expected a model of the same variant, --alpha and classes, got other weights "
            f"({len(found)} arrays for {len(wanted)}, or of other shapes): repeat the options it was trained with",
            code="weights-shape",
        )
    model.set_weights(values)


def _affordable(config: TrainConfig, state: State) -> int:
    """Epochs in all that fit the budget, at the speed seen so far with a tenth kept back; the schedule shrinks with it."""
    if config.budget_min is None:
        return state.epochs
    fitting = int(0.9 * config.budget_min * 60 / (state.seconds / state.epoch))
    return max(state.epoch, min(config.epochs, fitting))


def _identity(dataset: Dataset, parts: Split, config: TrainConfig) -> dict[str, Any]:
    """What makes two runs the same run; a choice from before its option existed is not named, so old runs stay resumable."""
    choices = asdict(config)
    if config.dropout_depth == 1:
        del choices["dropout_depth"]
    for name in ("attention", "harden"):
        if not choices[name]:
            del choices[name]
    return dict(json.loads(json.dumps({"config": choices, "data": dataset.digest, "split": parts.digest})))


def _finished(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    if not (out / runs.RECORD).is_file():
        return None
    _, record = runs.load(out)
    if record.get("identity") != identity:
        raise ModelError(
            f"{out}: expected an empty folder or this same run, found another finished run: choose another --out",
            code="run-differs",
        )
    return record


def _record(
    dataset: Dataset,
    parts: Split,
    config: TrainConfig,
    state: State,
    labels: Sequence[str],
    identity: dict[str, Any],
) -> dict[str, Any]:
    return {
        "record": "train",
        "variant": config.variant,
        "alpha": config.alpha,
        "size_px": config.size_px,
        "dilation": config.dilation,
        "attention": config.attention,
        "parameters": stages.parameters(config.alpha, len(labels), attention=config.attention),
        "macs": stages.macs(config.alpha, config.size_px, len(labels), attention=config.attention),
        "classes": list(labels),
        "best_epoch": state.best_epoch,
        "validation": state.validation,
        "history": state.history,
        "seconds": state.seconds,
        "data": {
            "spec": dataset.spec,
            "name": dataset.name,
            "digest": dataset.digest,
            "images": len(dataset),
            "counts": dict(zip(labels, np.bincount(dataset.targets(), minlength=len(labels)).tolist())),
            "parts": {name: len(members) for name, members in parts.parts.items()},
            "split": {"seed": parts.seed, "digest": parts.digest, "fractions": dict(parts.fractions)},
            "problems": len(dataset.problems),
        },
        "seed": config.seed,
        "versions": runs.versions(),
        "identity": identity,
    }

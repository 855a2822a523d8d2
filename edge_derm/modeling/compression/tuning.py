"""``compress``: a trained network made smaller, then tuned with its parent (or better ones) as teacher.

Each method is a start (``prune``, ``cluster``, ``qat``) and what must hold after every step; the loop, its resumption and its
files are those of ``training``. The teacher's part of the loss is Hinton et al., 2015, https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from edge_derm.data import Dataset, Split
from edge_derm.errors import ModelError
from edge_derm.modeling import architecture, runs
from edge_derm.modeling.checkpoint import State
from edge_derm.modeling.compression import cluster, prune
from edge_derm.modeling.compression.chain import fold
from edge_derm.modeling.interface import input_size, resized
from edge_derm.modeling.normalising import trained_twin
from edge_derm.modeling.recipe import TrainConfig, views_of
from edge_derm.modeling.session import Session
from edge_derm.modeling.scoring import probabilities
from edge_derm.modeling.training import Callback, carry_out

METHODS = ("prune", "cluster", "distill", "qat")
JUDGED_ON = 256  # training images that say which channels matter
CALIBRATED_ON = 512  # training images that ranges start from
Constraint = Callable[[keras.Model], None]


@dataclass(frozen=True)
class Settings:
    """Every choice of a compression."""

    method: str
    keep: float = 0.6  # prune: share of the MACs that stays
    sparsity: float | None = (
        None  # prune: zero weights instead of taking channels out; their share of pointwise kernels
    )
    clusters: int = 32  # cluster: distinct weights of a kernel
    teachers: tuple[str, ...] = ()  # run folders; none: the parent
    weight: float = 2.0  # of the teacher in the loss; that of the labels is 1
    temperature: float | None = None  # None: 2; qat, which is to decide alike: 1
    epochs: int = 10
    size_px: int | None = None  # of the input; None: the parent's
    learning_rate: float | None = None  # None: 1e-3; qat, which only moves weights by a few steps: 5e-5
    seed: int = 0


class Tuning(Session):
    """A training session that starts from a network, listens to teachers, and keeps a constraint."""

    def __init__(
        self,
        dataset: Dataset,
        parts: Split,
        config: TrainConfig,
        *,
        start: keras.Model,
        teachers: Sequence[keras.Model],
        settings: Settings,
        constraint: Constraint | None,
    ) -> None:
        super().__init__(dataset, parts, config, start=start)
        self.teachers = [
            (input_size(model), architecture.logits_of(trained_twin(model))) for model in teachers
        ]
        self.fixed = [variable for _, teacher in self.teachers for variable in teacher.variables]
        self.settings, self.constraint = settings, constraint

    def pull(self, images: Any, logits: Any) -> Any:
        """Divergence from the teachers' mean softened decision."""
        temperature = self.settings.temperature or (1.0 if self.settings.method == "qat" else 2.0)
        softened = []
        for size_px, teacher in self.teachers:
            side = views_of(size_px)  # it sees lesions as large as it learnt them
            seen = images if side == images.shape[1] else ops.image.resize(images, (side, side))
            softened.append(ops.softmax(teacher(seen, training=False) / temperature))
        wanted = sum(softened) / len(softened)
        loss = keras.losses.categorical_crossentropy(wanted, logits / temperature, from_logits=True)
        return self.settings.weight * temperature**2 * ops.mean(loss)

    def settle(self) -> None:
        if self.constraint is not None:
            self.constraint(self.live)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of the activations, by the layer of ``product`` whose output they are; empty where none were trained."""
        return {}


def compress(
    parent: keras.Model,
    run: Mapping[str, Any],
    dataset: Dataset,
    parts: Split,
    settings: Settings,
    out: Path,
    *,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Compress the network of a run into the run folder ``out``; an interrupted folder is gone on with. Returns the record.

    Args:
        run: the parent's record (``runs.load``).
        parts: the split that the parent was trained with, where the data are the same.

    Raises:
        ModelError: ``method-unknown``, ``distill-teacher``, ``labels-differ``, ``prune-…``, ``cluster-…``, ``chain-structure``,
            ``run-differs``, ``training-diverged``.
    """
    before = parent
    if settings.size_px is not None:
        parent, run = resized(parent, settings.size_px), {**run, "size_px": settings.size_px}
    config = _config(run, settings)
    teachers = _teachers(parent, run, settings)
    identity = _identity(parent, teachers, dataset, parts, config, settings)
    number = CALIBRATED_ON if settings.method == "qat" else JUDGED_ON
    seen = dataset.images(config.size_px, _few(parts.parts["train"], number, settings.seed))
    given: dict[str, Any] = {"teachers": teachers, "settings": settings}

    def make() -> Tuning:
        if settings.method == "qat":
            from edge_derm.modeling.compression.simulating import Simulation  # TensorFlow's arithmetic

            return Simulation(dataset, parts, config, parent=parent, seen=seen, **given)
        start, constraint = begin(parent, seen, settings)
        return Tuning(dataset, parts, config, start=start, constraint=constraint, **given)

    def told(state: State, session: Tuning) -> dict[str, Any]:
        pairs = (
            (session.model, session.judged),
            (before, dataset.images(input_size(before), parts.parts["validation"])),
        )
        decided = [probabilities(model, images).argmax(axis=1) for model, images in pairs]
        return {
            **_record(run, session.product(), state, settings, identity),
            "agreement": float((decided[0] == decided[1]).mean()),  # with the run it came from, on validation
            "ranges": session.ranges(),
        }

    return carry_out(out, identity, make, told, callbacks=callbacks)


def begin(
    parent: keras.Model, pixels: np.ndarray, settings: Settings
) -> tuple[keras.Model, Constraint | None]:
    """The network that tuning starts from, and what is restored after each step."""
    if settings.method == "prune" and settings.sparsity is None:
        return prune.prune_channels(parent, pixels, share=settings.keep), None
    copy = keras.models.clone_model(parent)
    copy.set_weights(parent.get_weights())
    if settings.method == "prune":
        constraint = masked(prune.masks(copy, sparsity=settings.sparsity or 0))
        constraint(copy)
        return copy, constraint
    if settings.method == "cluster":
        copy, assignments = cluster.cluster_kernels(parent, settings.clusters)
        return copy, shared(assignments)
    return copy, None


def masked(masks: Mapping[str, np.ndarray]) -> Constraint:
    """Zero weights stay zero."""

    def settle(model: keras.Model) -> None:
        for name, mask in masks.items():
            kernel = model.get_layer(name).kernel
            kernel.assign(kernel * mask)

    return settle


def shared(assignments: Mapping[str, np.ndarray]) -> Constraint:
    """Weights of one cluster stay equal: each takes their mean."""

    def settle(model: keras.Model) -> None:
        for name, near in assignments.items():
            kernel = model.get_layer(name).kernel
            sums = ops.segment_sum(ops.reshape(kernel, [-1]), near.ravel(), int(near.max()) + 1)
            kernel.assign(ops.take(sums / np.maximum(np.bincount(near.ravel()), 1).astype(np.float32), near))

    return settle


def _few(indices: np.ndarray, number: int, seed: int) -> np.ndarray:
    if len(indices) <= number:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, number, replace=False))


def _config(run: Mapping[str, Any], settings: Settings) -> TrainConfig:
    if settings.method not in METHODS:
        raise ModelError(
            f"method: expected one of {', '.join(METHODS)}, got {settings.method!r}", code="method-unknown"
        )
    return replace(
        TrainConfig(),
        variant=run["variant"],
        dilation=dict(run["dilation"]),
        alpha=run["alpha"],
        size_px=run["size_px"],
        epochs=settings.epochs,
        learning_rate=settings.learning_rate or (5e-5 if settings.method == "qat" else 1e-3),
        weight_decay=0.0 if settings.method == "qat" else TrainConfig.weight_decay,
        seed=settings.seed,
        ema_epochs=min(TrainConfig.ema_epochs, settings.epochs / 5),
        start_share=0.0,  # it has learnt from small views already
    )


def _teachers(parent: keras.Model, run: Mapping[str, Any], settings: Settings) -> list[keras.Model]:
    if not settings.teachers:
        if settings.method == "distill":
            raise ModelError(
                "distill: expected a better network to learn from, got none: give --teacher RUN",
                code="distill-teacher",
            )
        return [parent]
    found = []
    for path in settings.teachers:
        model, record = runs.load(Path(path))
        if record and list(record["classes"]) != list(run["classes"]):
            raise ModelError(
                f"{path}: expected a teacher of the classes {', '.join(run['classes'])}, got {', '.join(record['classes'])}",
                code="labels-differ",
            )
        found.append(model)
    return found


def _identity(
    parent: keras.Model,
    teachers: Sequence[keras.Model],
    dataset: Dataset,
    parts: Split,
    config: TrainConfig,
    settings: Settings,
) -> dict[str, Any]:
    def digest(model: keras.Model) -> str:
        return hashlib.sha256(
            b"".join(np.ascontiguousarray(v).tobytes() for v in model.get_weights())
        ).hexdigest()

    whole = {
        "config": asdict(config),
        "settings": {
            **asdict(settings),
            "teachers": [digest(model) for model in teachers if settings.teachers],
        },
        "parent": digest(parent),
        "data": dataset.digest,
        "split": parts.digest,
    }
    return dict(json.loads(json.dumps(whole)))


def sparsity(model: keras.Model) -> float:
    """Share of zeros among the weights of all convolutions and the classifier."""
    kernels = [layer.get_weights()[0] for layer in model.layers if hasattr(layer, "kernel")]
    return float(sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels))


def distinct(model: keras.Model) -> int:
    """Distinct weights of the convolution kernel that has most."""
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    kernels = [layer.get_weights()[0] for layer in model.layers if isinstance(layer, convolutions)]
    return max(len(np.unique(kernel)) for kernel in kernels)


def _record(
    run: Mapping[str, Any],
    model: keras.Model,
    state: State,
    settings: Settings,
    identity: dict[str, Any],
) -> dict[str, Any]:
    kept = ("variant", "alpha", "size_px", "dilation", "classes", "data", "seed")
    return {
        **{key: run.get(key) for key in kept},
        "record": "compress",
        "method": settings.method,
        "settings": asdict(settings),
        "parameters": int(sum(np.prod(w.shape) for w in model.trainable_weights)),
        "macs": prune.macs(fold(model), int(run["size_px"])),
        "sparsity": sparsity(model),
        "distinct_weights": distinct(model),
        "best_epoch": state.epoch,  # the one kept: the last
        "validation": state.validation,
        "parent": {"parameters": run["parameters"], "macs": run["macs"], "validation": run["validation"]},
        "history": state.history,
        "seconds": state.seconds,
        "versions": runs.versions(),
        "identity": identity,
    }

"""Training: the recipe, the loop, and how it goes on after an interruption.

The recipe (each part chosen on a lesion-wise validation part; ``docs/training.md`` has the figures): ImageNet weights where
given; AdamW with warm-up and a cosine to nearly zero; cross-entropy with label smoothing on logits adjusted by the log of
the class frequencies (Menon et al., 2021, https://arxiv.org/abs/2007.07314), which aims at balanced accuracy; strong
symmetries, crops and colour on views a little smaller than the input, the first half of the epochs on small ones; an
exponential moving average of the weights, which is what is judged; its last is kept.

An epoch is a pure function of the state before it and of its number: every order and every augmentation is drawn from
(seed, epoch, batch). The state is written after each epoch, so a killed run goes on where the last epoch ended and ends equal
to one that was never interrupted.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Sequence, TypeVar

import keras
import numpy as np

from edge_derm.data import Dataset, Split, split
from edge_derm.data.split import DEFAULT_FRACTIONS, thin
from edge_derm.errors import ModelError
from edge_derm.modeling import hardening, recipe, runs, stages
from edge_derm.modeling.checkpoint import State, read_state, write_state
from edge_derm.modeling.recipe import TrainConfig
from edge_derm.modeling.session import Session, Watcher

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
    split_seed: int | None = None,
    attention: bool = False,
    harden: bool = False,
    share: float = 1.0,
    callbacks: Sequence[Callback] = (),
    watchers: Sequence[Watcher] = (),
) -> dict[str, Any]:
    """``train`` with the recipe's defaults for whatever is None, on the default split. See ``train``.

    Args:
        hold_out: share of the lesions that neither trains nor chooses anything: the part ``test`` of the recorded split.
        split_seed: of the split, where runs of several seeds are to share one; None: ``seed``.
        harden: train against universal perturbations (``modeling.hardening``).
        share: of the training lesions; the images that models are judged on stay the same.
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
        else {**{name: whole * (1 - hold_out) for name, whole in DEFAULT_FRACTIONS.items()}, "test": hold_out}
    )
    split_seed = seed if split_seed is None else split_seed
    parts = thin(dataset, split(dataset, seed=split_seed, fractions=shares), share)
    return train(dataset, parts, config, out, callbacks=callbacks, watchers=watchers)


def train(
    dataset: Dataset,
    parts: Split,
    config: TrainConfig,
    out: Path,
    *,
    callbacks: Sequence[Callback] = (),
    watchers: Sequence[Watcher] = (),
) -> dict[str, Any]:
    """Train, or go on with, a run; write ``model.keras``, ``run.json`` and ``history.csv`` to ``out``; return the record.

    Args:
        parts: needs ``train`` and ``validation``.
        callbacks: called after every epoch. watchers: after every step.

    Raises:
        ModelError: ``run-differs`` (the folder holds another run), ``variant-…``, ``weights-…``, ``training-diverged``.
        DataError: images that do not decode.
    """
    identity = _identity(dataset, parts, config)

    def told(state: State, session: Session) -> dict[str, Any]:
        return _record(dataset, parts, config, state, session.labels, identity)

    def make() -> Session:
        session = Session(dataset, parts, config)
        session.watchers = watchers
        return session

    return carry_out(out, identity, make, told, callbacks=callbacks)


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
    began = started - state.seconds
    session.deadline = began + recipe.seconds(config)
    while not state.finished:
        state = session.epoch(state)
        state = replace(state, seconds=time.monotonic() - began)
        state = replace(state, epochs=recipe.affordable(config, state.epoch, state.epochs, state.seconds))
        for callback in callbacks:
            callback(state, session.model)
        write_state(out / runs.CHECKPOINT, state, identity)
    record = {**record_of(state, session), "profile": session.profile()}
    runs.save(out, session.product(), record)
    return record


def _identity(dataset: Dataset, parts: Split, config: TrainConfig) -> dict[str, Any]:
    """What makes two runs the same run, wherever its files lie; a choice from before its option existed is not named."""
    choices = asdict(config)
    if config.weights:
        choices["weights"] = runs.digest(Path(config.weights))
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
        "best_epoch": state.epoch,  # the one kept: the last
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
            "split": parts.recipe,
            "problems": len(dataset.problems),
        },
        "seed": config.seed,
        "versions": runs.versions(),
        "identity": identity,
    }

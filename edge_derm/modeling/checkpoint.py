"""The state of a run between two epochs, and its file."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from edge_derm import files
from edge_derm.errors import ModelError
from edge_derm.modeling import scoring

ARRAYS = ("live", "average", "optimizer")
PLAIN = ("epoch", "epochs", "validation", "history", "seconds")


@dataclass(frozen=True)
class State:
    """Everything the next epoch depends on, and what the last one came to.

    Kept is the average after the last epoch: until then the weights move, and of thirty figures on a small validation part the
    luckiest can be one of the first.
    """

    epoch: int  # epochs done
    epochs: int  # epochs planned
    live: Sequence[np.ndarray]
    average: Sequence[np.ndarray]
    optimizer: Sequence[np.ndarray]
    validation: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.epochs

    def after(
        self,
        loss: float,
        figures: dict[str, Any],
        *,
        live: Sequence[np.ndarray],
        average: Sequence[np.ndarray],
        optimizer: Sequence[np.ndarray],
    ) -> State:
        """The state after one more epoch with this training loss and these validation figures."""
        epoch = self.epoch + 1
        row = {
            "epoch": epoch,
            "loss": loss,
            "validation_loss": figures["loss"],
            "validation_accuracy": figures["accuracy"],
            "validation_balanced_accuracy": figures["balanced_accuracy"],
            "selection": scoring.selection(figures),
        }
        return replace(
            self,
            epoch=epoch,
            live=live,
            average=average,
            optimizer=optimizer,
            validation=figures,
            history=[*self.history, row],
        )


def write_state(path: Path, state: State, identity: dict[str, Any]) -> None:
    """Write ``state`` whole or not at all; ``identity`` says which run it belongs to."""
    plain = {key: getattr(state, key) for key in PLAIN}
    arrays = {f"{name}.{i}": value for name in ARRAYS for i, value in enumerate(getattr(state, name))}
    with files.replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, plain=np.array(json.dumps({**plain, "identity": identity})), **arrays)


def read_state(path: Path, identity: dict[str, Any]) -> State | None:
    """The state of this very run, or None where there is none yet.

    Raises:
        ModelError: ``run-differs`` (another run's), ``checkpoint-broken``.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            plain = json.loads(str(stored["plain"]))
            arrays = {name: [stored[key] for key in _keys(stored.files, name)] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path}: expected the state of a run, got {error}: delete the file to start anew",
            code="checkpoint-broken",
        ) from error
    if plain.pop("identity") != identity:
        raise ModelError(
            f"{path.parent}: expected an empty folder or this same run, found another run half-way: "
            "choose another --out, or repeat its options",
            code="run-differs",
        )
    return State(**{key: plain[key] for key in PLAIN}, **arrays)  # type: ignore[arg-type]


def _keys(names: Sequence[str], prefix: str) -> list[str]:
    return sorted(
        (name for name in names if name.startswith(prefix + ".")),
        key=lambda name: int(name.rpartition(".")[2]),
    )

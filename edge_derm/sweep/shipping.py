"""Data and weights for workers that share no folder with us: sent once to each, checked there by digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Mapping

from .. import files
from ..errors import DataError
from .cells import Task

DATA, WEIGHTS = "data", "weights"


@dataclass(frozen=True)
class Shipment:
    """Files by their path on arrival; ``key`` names them and the folder they are put into."""

    key: str
    parts: Mapping[str, bytes]
    sums: Mapping[str, str]

    @staticmethod
    def of(data: Path | None, weights: Mapping[str, str]) -> Shipment:
        """The images (None: they are drawn, nothing to send) and the weight files of each width."""
        parts: dict[str, bytes] = {}
        if data is not None:
            parts |= {f"{DATA}/{data.name}/{name}": content for name, content in pack(data).items()}
        for width, name in weights.items():
            path = Path(name)
            found = pack(path) if path.is_dir() else {"": path.read_bytes()}
            parts |= {f"{WEIGHTS}/{width}/{path.name}/{inner}".rstrip("/"): c for inner, c in found.items()}
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
        whole = hashlib.sha256("\n".join(f"{n} {s}" for n, s in sorted(sums.items())).encode()).hexdigest()
        return Shipment(f"edge-derm-{whole[:16]}", parts, sums)

    def plugin(self) -> Any:
        """For ``Client.register_plugin``: Dask hands it to every worker there is, and to each that comes later."""
        from distributed import WorkerPlugin

        shipment = self

        class Arrival(WorkerPlugin):
            name = shipment.key

            def setup(self, worker: Any) -> None:
                shipment.arrive(Path(worker.local_directory))

        return Arrival()

    def arrive(self, folder: Path) -> None:
        """Write the files below ``folder``, whole or not at all, after their digests were checked.

        Raises:
            DataError: ``shipment-broken``.
        """
        for name, content in self.parts.items():
            if hashlib.sha256(content).hexdigest() != self.sums[name]:
                raise DataError(
                    f"{name}: arrived with other bytes than were sent: send again", code="shipment-broken"
                )
        if not (folder / self.key).is_dir():
            unpack(self.parts, folder / self.key)

    @staticmethod
    def localise(task: Task, home: Path) -> Task:
        """``task`` with its data and weights where they arrived."""
        arrived = home / DATA / Path(task.data).name
        train = dict(task.options.get("train", {}))
        if "weights" in train:
            train["weights"] = {
                width: str(home / WEIGHTS / width / Path(name).name)
                for width, name in train["weights"].items()
            }
        return replace(
            task,
            data=str(arrived) if arrived.is_dir() else task.data,
            options={**task.options, "train": train},
        )


def pack(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def unpack(parts: Mapping[str, bytes], folder: Path) -> None:
    """The folder that ``pack`` read, whole or not at all.

    Raises:
        DataError: ``shipment-path``: a path that leads out of the folder.
    """
    with files.replace_folder(folder) as fresh:
        for name, content in parts.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise DataError(
                    f"{name!r}: expected a path inside the folder that was sent", code="shipment-path"
                )
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)

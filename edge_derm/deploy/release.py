"""What is sent to a board: a release is a list of names and digests, and the files behind the digests.

Wheels are resolved here, for the board's Python, processor and C library, from the package index (once: they are kept in the
user's cache); the board needs no network. This package itself goes as a wheel made from the files that run here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import edge_derm
from edge_derm import files
from edge_derm.bundle import Bundle
from edge_derm.bundle.signature import SIGNATURE
from edge_derm.deploy import sbom
from edge_derm.deploy.unit import camera_arguments, unit_text
from edge_derm.errors import TargetError
from edge_derm.measure import process
from edge_derm.measure.cache import recipe_folder
from edge_derm.inspecting import inspect

_STAMP = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = {"__pycache__", "modeling"}
_OLDEST_LIBC = 17


@dataclass(frozen=True)
class Options:
    """How a release runs and what it must keep to.

    ``service``: ``camera`` or None. ``lsb``: steps the golden predictions may differ by. Budgets: None for no limit.
    """

    service: str | None = "camera"
    source: str = "0"
    port: int = 8080
    lsb: int = 2
    latency_ms: float | None = None
    memory_mb: float | None = None
    trust: bool = False


@dataclass(frozen=True)
class Release:
    """``record`` is what the board keeps as release.json; ``blobs`` ``{sha256: bytes or file}``."""

    record: Mapping[str, Any]
    blobs: Mapping[str, bytes | Path]

    @property
    def sizes(self) -> dict[str, int]:
        """``{sha256: bytes}``."""
        return {
            digest: len(blob) if isinstance(blob, bytes) else blob.stat().st_size
            for digest, blob in self.blobs.items()
        }


def build(bundle: Bundle, board: Mapping[str, Any], options: Options) -> Release:
    """The release of ``bundle`` for a probed ``board``. The same inputs give the same id.

    Raises:
        TargetError: ``wheels-network``: a package cannot be had for this board.
        BundleError: a file of the bundle changed meanwhile; ``sbom-…``: its own list of packages does not allow one.
    """
    wheels = packages(options, board)
    parts: dict[str, bytes | Path] = {name: bundle.part(name) for name in bundle.manifest.files}
    for name in ("manifest.json", SIGNATURE):
        if (bundle.path / name).exists():
            parts[name] = (bundle.path / name).read_bytes()
    blobs: dict[str, bytes | Path] = {}
    record: dict[str, Any] = {
        "schema": 1,
        "version": edge_derm.__version__,
        "service": options.service,
        "port": options.port,
    }
    for kind, contents in (("wheels", wheels), ("bundle", parts)):
        record[kind] = {name: _keep(blobs, blob) for name, blob in sorted(contents.items())}
    sbom.check(bundle, record["wheels"])
    record["sbom"] = _keep(blobs, sbom.dumps(sbom.document(bundle, wheels)))
    record["budget"] = {"lsb": options.lsb, "latency_ms": options.latency_ms, "memory_mb": options.memory_mb}
    record["macs"] = inspect(bundle.path)["macs"]
    record["system_site"] = options.source == "picamera2"
    digest = hashlib.sha256(
        json.dumps([record, options.source, options.trust], sort_keys=True).encode()
    ).hexdigest()
    name = record["id"] = f"{bundle.path.resolve().name.removesuffix('.bundle')[:40]}-{digest[:12]}"
    record["made_s"] = int(time.time())
    record["source"] = options.source
    record["arguments"] = camera_arguments(f"@ROOT@/releases/{name}/bundle", options.port)
    record["unit"] = unit_text(name, options.port, trust=options.trust, memory_mb=options.memory_mb)
    return Release(record, blobs)


def packages(options: Options, board: Mapping[str, Any]) -> dict[str, bytes | Path]:
    """Every wheel of a release for this board, this package's own included: ``{file name: bytes or file}``."""
    wheels: dict[str, bytes | Path] = {path.name: path for path in resolve(requirements(options), board)}
    return {**wheels, f"edge_derm-{edge_derm.__version__}-py3-none-any.whl": own_wheel()}


def requirements(options: Options) -> list[str]:
    """The packages a board needs, as written in this package's own metadata: the base, and the extras the options ask for."""
    from packaging.requirements import Requirement

    extras = ["camera"] * (options.service == "camera") + ["sign"] * options.trust
    wanted = []
    for text in importlib.metadata.requires("edge-derm") or []:
        requirement = Requirement(text)
        chosen = (
            [requirement.marker.evaluate({"extra": extra}) for extra in ["", *extras]]
            if requirement.marker
            else [True]
        )
        if any(chosen):
            requirement.marker = None
            wanted.append(str(requirement))
    return sorted(wanted)


def resolve(wanted: Sequence[str], board: Mapping[str, Any]) -> list[Path]:
    """Wheels of ``wanted`` and all they need for the board; from the cache, else from the index, all or none.

    Raises:
        TargetError: ``wheels-network``.
    """
    python, machine, minor = (
        "{}.{}".format(*board["python"][:2]),
        board["machine"],
        int(board["libc"][1].split(".")[1]),
    )
    folder = recipe_folder("release-wheels", [list(wanted), python, machine, minor])
    if not folder.is_dir():
        platforms = [f"manylinux_2_{n}_{machine}" for n in range(minor, _OLDEST_LIBC - 1, -1)] + [
            f"manylinux2014_{machine}"
        ]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--disable-pip-version-check",
            "--only-binary=:all:",
        ]
        command += ["--implementation", "cp", "--python-version", python]
        command += [word for platform in platforms for word in ("--platform", platform)]
        with files.replace_folder(folder) as fresh:
            try:
                process.run(
                    [*command, "--dest", str(fresh), *wanted],
                    what=f"wheels for {machine}, Python {python}",
                    timeout_s=900,
                )
            except TargetError as error:
                raise TargetError(
                    f"{error}: the package index is needed once for each kind of board; the board itself needs no network",
                    code="wheels-network",
                ) from None
    return sorted(folder.glob("*.whl"))


def own_wheel() -> bytes:
    """``edge_derm`` and ``firmware_bridge`` as a wheel without the TensorFlow part; the same bytes every time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for package in ("edge_derm", "firmware_bridge"):
            root = Path(str(importlib.util.find_spec(package).origin)).parent  # type: ignore[union-attr]
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root.parent)
                if path.is_file() and not set(inside.parts) & _LEFT_OUT:
                    _add(archive, str(inside), path.read_bytes())
        info = f"edge_derm-{edge_derm.__version__}.dist-info"
        _add(
            archive,
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: edge-derm\nVersion: {edge_derm.__version__}\n".encode(),
        )
        _add(
            archive,
            f"{info}/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: edge-derm\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
    return stream.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _STAMP), data, compress_type=zipfile.ZIP_DEFLATED)


def _keep(blobs: dict[str, bytes | Path], blob: bytes | Path) -> str:
    data = blob if isinstance(blob, bytes) else blob.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = blob
    return digest

"""A bundle on disk: written whole or not at all, opened only if every byte is the one the manifest promises.

Order of the checks in ``open_bundle``: the folder's listing, the manifest, the file names, then per file
kind, length and digest, then the structure of the model. Native code sees the model only through the
``Bundle`` this returns.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping

from edge_derm import files
from edge_derm.bundle import signature, structure
from edge_derm.bundle.fields import MANIFEST_LIMIT, check_file_name, show
from edge_derm.bundle.manifest import FileEntry, Manifest, loads
from edge_derm.errors import BundleError

MODEL = "model.tflite"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, its manifest, and the model's verified bytes."""

    path: Path
    manifest: Manifest
    model: bytes

    def part(self, name: str) -> bytes:
        """The bytes of one listed file, verified again now.

        Raises:
            BundleError: ``bundle-part`` (not listed), or what ``open_bundle`` raises for the file.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            known = ", ".join(sorted(self.manifest.files))
            raise BundleError(f"{self.path}: expected one of {known}, got {show(name)}", code="bundle-part")
        return self.model if name == MODEL else _read_verified(self.path / name, entry)

    def named(self, role: str) -> str | None:
        """The name of the first file with this role, or None."""
        return next((name for name, entry in self.manifest.files.items() if entry.role == role), None)


def write_bundle(
    path: Path | str,
    manifest: Manifest,
    *,
    model: bytes,
    parts: Mapping[str, tuple[str, bytes]] | None = None,
) -> Bundle:
    """Write a bundle to ``path`` in one step, replacing an older bundle there, and return it.

    Args:
        manifest: its ``files`` are ignored: they are filled in here.
        model: the .tflite file.
        parts: further files, ``{name: (role, bytes)}``, e.g. ``{"golden.npz": ("golden", data)}``.

    Raises:
        BundleError: what ``open_bundle`` would raise for the result; ``bundle-overwrite`` where ``path``
            holds something other than a bundle; ``bundle-write`` where the disk refuses.
    """
    path = Path(path)
    contents = {MODEL: ("model", model), **(parts or {})}
    for name in contents:
        check_file_name(name)
    entries = {name: FileEntry(role, _digest(data), len(data)) for name, (role, data) in contents.items()}
    manifest = loads(replace(manifest, files=entries).dumps().encode())
    structure.check_interface(structure.check_model(model), manifest)
    _check_replaceable(path)
    try:
        with files.replace_folder(path) as folder:
            for name, (_, data) in contents.items():
                (folder / name).write_bytes(data)
            (folder / MANIFEST).write_text(manifest.dumps(), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    return Bundle(path=path, manifest=manifest, model=bytes(model))


def update_bundle(bundle: Bundle, **changes: Any) -> Bundle:
    """Change manifest fields of a bundle on disk (``temperature=1.4``), all of them at once or none.

    The manifest alone is exchanged, by one rename. Give ``parts={name: (role, bytes)}`` to add or replace
    files; the folder is then written anew. A signature is over the old manifest: it is removed first.

    Raises:
        BundleError: as ``write_bundle``; ``bundle-file-…`` where the files are no longer the ones that were
        opened.
    """
    parts = changes.pop("parts", None)
    if parts is not None:
        kept = {
            name: (entry.role, bundle.part(name))
            for name, entry in bundle.manifest.files.items()
            if name != MODEL
        }
        return write_bundle(
            bundle.path, bundle.manifest.updated(**changes), model=bundle.model, parts={**kept, **parts}
        )
    manifest = loads(bundle.manifest.updated(files=bundle.manifest.files, **changes).dumps().encode())
    structure.check_interface(structure.check_model(bundle.model), manifest)
    open_bundle(bundle.path, trust={})
    (bundle.path / signature.SIGNATURE).unlink(missing_ok=True)
    _exchange_manifest(bundle.path.resolve(), manifest)
    return replace(bundle, manifest=manifest)


def open_bundle(path: Path | str, *, trust: Mapping[str, Any] | None = None) -> Bundle:
    """Open the bundle in folder ``path`` after verifying every file in it, and its signature where one is asked for.

    Args:
        trust: public keys by id of which one must have signed; {}: a signature need not be there, but must be over this
            manifest; None: as this machine was told (``signature.trusted``).

    Raises:
        BundleError: ``bundle-missing``, ``bundle-not-a-folder``, ``bundle-unreadable``, ``manifest-missing``,
            ``manifest-…``, ``bundle-file-name``, ``bundle-file-missing``, ``bundle-file-extra``,
            ``bundle-file-kind`` (a link, folder or device), ``bundle-file-size`` (truncated or grown),
            ``bundle-file-digest`` (altered), ``model-…`` (not a well-formed .tflite, or not the one the
            manifest describes), ``signature-missing`` and the other ``signature-…`` and ``trust-…``.
    """
    path = Path(path)
    text = _manifest_text(path)
    if trust is None:
        trust = signature.trusted()
    if trust or os.path.lexists(path / signature.SIGNATURE):
        where = path / signature.SIGNATURE
        signature.check(signature.parse(read_signature(path), where), text, trust, where)
    return _open(path, text)


def open_unsigned(path: Path | str) -> Bundle:
    """``open_bundle`` without a look at the signature: for who is about to sign."""
    return _open(Path(path), _manifest_text(Path(path)))


def _manifest_text(path: Path) -> bytes:
    if MANIFEST not in _list(path):
        raise BundleError(
            f"{path}: expected a bundle, found no {MANIFEST}: give the folder that export wrote",
            code="manifest-missing",
        )
    return _read(path / MANIFEST, limit=MANIFEST_LIMIT)


def _open(path: Path, text: bytes) -> Bundle:
    manifest = loads(text)
    _check_listing(path, _list(path), manifest)
    model = _read_verified(path / MODEL, manifest.files[MODEL])
    for name, entry in manifest.files.items():
        if name != MODEL:
            _read_verified(path / name, entry)
    structure.check_interface(structure.check_model(model), manifest)
    return Bundle(path=path, manifest=manifest, model=model)


def read_signature(path: Path) -> bytes:
    """The bytes of a bundle's ``signature.json``. Raises BundleError ``signature-missing``, ``bundle-file-kind``."""
    where = path / signature.SIGNATURE
    if not os.path.lexists(where):
        raise BundleError(
            f"{path}: not signed, and this machine was told to open signed bundles only: sign it with 'edge-derm sign'",
            code="signature-missing",
        )
    return _read(where, limit=signature.LIMIT_BYTES)


def _list(path: Path) -> set[str]:
    try:
        with os.scandir(path) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        raise BundleError(f"{path}: no such bundle", code="bundle-missing") from None
    except NotADirectoryError:
        raise BundleError(
            f"{path}: expected a bundle folder, got a file (a bare .tflite is adopted first)",
            code="bundle-not-a-folder",
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _check_listing(path: Path, present: set[str], manifest: Manifest) -> None:
    listed = set(manifest.files)
    if MODEL not in listed:
        raise BundleError(f"{path / MANIFEST}: files does not list {MODEL}", code="bundle-file-missing")
    missing = sorted(listed - present)
    if missing:
        raise BundleError(
            f"{path}: {missing[0]} is listed but missing: copy the bundle again", code="bundle-file-missing"
        )
    extra = sorted(present - listed - {MANIFEST, signature.SIGNATURE})
    if extra:
        raise BundleError(
            f"{path}: {show(extra[0])} is not listed in {MANIFEST}: a bundle holds only what it lists",
            code="bundle-file-extra",
        )


def _read_verified(path: Path, entry: FileEntry) -> bytes:
    data = _read(path, limit=entry.bytes)
    if len(data) != entry.bytes:
        raise _wrong_size(path, entry.bytes, len(data))
    if _digest(data) != entry.sha256:
        raise BundleError(
            f"{path}: its SHA-256 is not the one in {MANIFEST}: the file was altered; copy it again",
            code="bundle-file-digest",
        )
    return data


def _read(path: Path, *, limit: int) -> bytes:
    """The whole file, at most ``limit`` bytes of it; opened once, so that what is checked is what is used."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise _wrong_kind(path)
        with open(os.open(path, flags), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _wrong_kind(path)
            if status.st_size > limit:
                raise _wrong_size(path, limit, status.st_size)
            return stream.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_replaceable(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise BundleError(
            f"{path}: exists and is not a bundle folder: choose another name", code="bundle-overwrite"
        )
    present = _list(path)
    if present and (MANIFEST not in present or any((path / name).is_dir() for name in present)):
        raise BundleError(
            f"{path}: a folder with other things in it, not a bundle: choose another name",
            code="bundle-overwrite",
        )


def _exchange_manifest(path: Path, manifest: Manifest) -> None:
    # The temporary file stands beside the bundle: a kill in between must not leave an unlisted file inside
    # it.
    temporary = path.parent / f".{path.name}.{MANIFEST}.{os.getpid()}"
    try:
        files.write_text(temporary, manifest.dumps())
        os.replace(temporary, path / MANIFEST)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _wrong_kind(path: Path) -> BundleError:
    return BundleError(
        f"{path}: expected a regular file, got a link, folder or device", code="bundle-file-kind"
    )


def _wrong_size(path: Path, expected: int, got: int) -> BundleError:
    if path.name == MANIFEST:
        return BundleError(f"{path}: expected at most {expected} bytes, got {got}", code="manifest-size")
    return BundleError(
        f"{path}: expected {expected} bytes, got {got}: copy it again", code="bundle-file-size"
    )


def _unreadable(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path}: cannot be read: {error.args[-1] if error.args else error}", code="bundle-unreadable"
    )


def _unwritable(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path}: cannot be written: {error.args[-1] if error.args else error}; nothing was changed",
        code="bundle-write",
    )

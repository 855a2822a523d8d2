"""Folders and files whole or not at all: written under a temporary name beside their goal, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterator, Mapping

from firmware_bridge.graph import BridgeError


@contextlib.contextmanager
def replace_folder(path: Path, *, ours: str | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; on success it takes the place of ``path``.

    A folder that is there is replaced if it is empty or holds a file called ``ours`` (it is an earlier result);
    any other is left alone: BridgeError ``folder-not-ours``. On any exception nothing has changed.
    """
    path = Path(path)
    _check_ours(path, ours)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_folder(path: Path, files: Mapping[str, str | bytes], *, ours: str | None = None) -> None:
    """Write ``{relative name: content}`` as the whole content of ``path``; text as UTF-8. See ``replace_folder``."""
    with replace_folder(path, ours=ours) as temporary:
        for name, content in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)


def write_file(path: Path, content: str | bytes) -> None:
    """Write one file, text as UTF-8, whole or not at all; a device or pipe (/dev/null) is written into."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        with path.open("wb") as sink:
            sink.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _check_ours(path: Path, ours: str | None) -> None:
    if not path.exists():
        return
    if path.is_dir() and (not any(path.iterdir()) or (ours is not None and (path / ours).is_file())):
        return
    raise BridgeError(
        f"expected {path} to be free, empty or an earlier result of this command; got other files there; "
        "choose another folder or remove it",
        code="folder-not-ours",
    )


def _swap(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    os.rename(path, old / path.name)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(old / path.name, path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)

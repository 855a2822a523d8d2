"""The step of ``inspect``: what a bundle, or a bare .tflite, holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .bundle import Bundle, check_model, open_bundle
from .errors import BundleError


def inspect(path: Path) -> dict[str, Any]:
    """Operators, tensors, MACs, parameters, quantisation and warnings of a bundle or a bare .tflite."""
    from firmware_bridge.summary import summarize

    model, bundle = read_model(path)
    summary = summarize(check_model(model, where=str(path)))
    return {
        "record": "inspect",
        "path": str(path),
        "size_bytes": len(model),
        **asdict(summary),
        "operators": dict(summary.operators),
        "manifest": json.loads(bundle.manifest.dumps()) if bundle else None,
    }


def read_model(path: Path) -> tuple[bytes, Bundle | None]:
    """The .tflite bytes at ``path``: of a verified bundle, or a bare file."""
    if path.is_dir():
        bundle = open_bundle(path)
        return bundle.model, bundle
    return read_file(path), None


def read_file(path: Path) -> bytes:
    """A file's bytes; a missing one or a folder is named."""
    if not path.is_file():
        raise BundleError(
            f"{path}: expected a bundle folder or a file, found {'a folder' if path.is_dir() else 'nothing'}",
            code="file-missing",
        )
    return path.read_bytes()

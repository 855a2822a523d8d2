"""What may be added to a generated folder: C files, lines of its header, a section of its README."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping


@dataclass(frozen=True)
class Part:
    """``files`` {file name: C text}; ``declarations`` and ``notes`` are text that ends in a line feed, or empty."""

    files: Mapping[str, str] = field(default_factory=dict)
    declarations: str = ""
    notes: str = ""


def declare(header: str, part: Part) -> str:
    """Return a generated header with the declarations of ``part`` before what closes it."""
    before, close, after = header.rpartition("\n#ifdef __cplusplus\n}")
    return f"{before}\n{part.declarations}{close}{after}" if part.declarations else header

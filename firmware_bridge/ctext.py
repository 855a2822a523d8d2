"""C text: arrays, structs and comments that no compiler, and no name out of a hostile file, can misread."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence

_WIDTH = 112
_LEAST = {-(2**31): "(-2147483647-1)"}  # C has no literal for it


def integers(values: Iterable[int]) -> str:
    """Return a braced initialiser of integers of at most 32 bits, wrapped to lines."""
    return _lines([str(_LEAST.get(value, value)) for value in values])


@dataclass(frozen=True)
class Array:
    """The definition of a static constant array, and the bytes it takes on a device."""

    text: str
    bytes: int


def array(name: str, kind: str, values: Iterable[int], *, aligned: bool = False) -> Array:
    """Return a constant array of ``kind`` (int8_t, uint8_t, …); ``aligned`` for kernels that load words of it."""
    listed = list(values)
    attribute = "ED_ALIGNED " if aligned else ""
    text = f"static const {attribute}{kind} {name}[{len(listed)}] = {integers(listed)};"
    return Array(text, len(listed) * (int(re.sub("[^0-9]", "", kind)) // 8))


def pairs(name: str, kind: str, values: Sequence[tuple[int, int]]) -> Array:
    """Return a constant array of structs of two int32."""
    words = [f"{{{a}, {b}}}" for a, b in values]
    return Array(f"static const {kind} {name}[{len(words)}] = {_lines(words)};", 8 * len(words))


def struct(fields: Mapping[str, object]) -> str:
    """Return a designated initialiser; nested mappings become nested ones."""
    parts = (f".{key} = {struct(v) if isinstance(v, Mapping) else v}" for key, v in fields.items())
    return "{" + ", ".join(parts) + "}"


def comment(text: str) -> str:
    """Return ``text`` as it may stand in a C comment or string: one line of harmless characters, at most 100."""
    return re.sub(r"[^A-Za-z0-9_ .,:;=+\-\[\]()/]|/(?=[*/])|(?<=[*/])/", "_", text)[:100]


def _lines(words: Sequence[str]) -> str:
    """Braces around words of about equal length, as many to a line as fit."""
    each = max(1, _WIDTH // (max(map(len, words), default=0) + 2))
    lines = (", ".join(words[start : start + each]) for start in range(0, len(words), each))
    return "{\n" + "".join(f"    {line},\n" for line in lines) + "}"

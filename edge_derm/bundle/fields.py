"""Strict JSON: every value is refused by name unless it is exactly what was expected."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Mapping, NoReturn, Sequence

import numpy as np

from edge_derm.errors import BundleError

MANIFEST_LIMIT = 4 * 1024 * 1024
DIGEST = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
RESERVED = ("manifest.json", "signature.json")
_DEPTH = 32


@dataclass(frozen=True)
class Reader:
    """A JSON value and where it stands in the document (``input.size_px``)."""

    value: Any
    where: str = ""

    def at(self, key: str) -> Reader:
        """The value under ``key`` of a table; ``keys`` has been called before."""
        return Reader(self.value[key], f"{self.where}.{key}".lstrip("."))

    def table(self) -> dict[str, Any]:
        """A JSON object with any plain content."""
        if not isinstance(self.value, dict):
            raise self._type("an object")
        check_plain(self.value, self.where)
        return self.value

    def keys(self, expected: Sequence[str], *, optional: Sequence[str] = ()) -> None:
        """A JSON object with exactly the ``expected`` keys, and perhaps some of the ``optional`` ones."""
        table = self.table()
        for key in expected:
            if key not in table:
                raise refuse(
                    f"{self.where}.{key}".lstrip("."),
                    "is missing: write the bundle again",
                    "manifest-key-missing",
                )
        unknown = sorted(set(table) - set(expected) - set(optional))
        if unknown:
            raise refuse(
                f"{self.where}.{unknown[0]}".lstrip("."),
                f"is not a key of this schema; known: {', '.join(expected)}",
                "manifest-key-unknown",
            )

    def items(self) -> list[Reader]:
        """The members of a JSON object with free keys."""
        return [Reader(value, f"{self.where}.{key}") for key, value in self.table().items()]

    def sequence(self, low: int, high: int) -> list[Reader]:
        """The members of a list of ``low`` to ``high`` values."""
        if not isinstance(self.value, (list, tuple)):
            raise self._type("a list")
        if not low <= len(self.value) <= high:
            raise refuse(
                self.where, f"expected {low} to {high} values, got {len(self.value)}", "manifest-value"
            )
        return [Reader(value, f"{self.where}[{i}]") for i, value in enumerate(self.value)]

    def text(self, *, limit: int = 1000) -> str:
        """Printable non-empty text of at most ``limit`` characters that UTF-8 can hold."""
        if not isinstance(self.value, str):
            raise self._type("text")
        if not 0 < len(self.value) <= limit or not self.value.isprintable() or not self.value.strip():
            raise refuse(
                self.where,
                f"expected 1 to {limit} printable characters, got {show(self.value)}",
                "manifest-value",
            )
        return self.value

    def whole(self, low: int, high: int) -> int:
        """A whole number in [low, high]; true and false are not numbers."""
        if type(self.value) is not int:
            raise self._type("a whole number")
        if not low <= self.value <= high:
            raise refuse(self.where, f"expected {low} to {high}, got {show(self.value)}", "manifest-value")
        return self.value

    def number(self, low: float, high: float, *, above: bool = False) -> float:
        """A finite number in [low, high], or in (low, high] with ``above``."""
        if type(self.value) not in (int, float):
            raise self._type("a number")
        if not (low < self.value if above else low <= self.value) or not self.value <= high:
            raise refuse(
                self.where,
                f"expected {'above' if above else 'at least'} {low:g} and at most {high:g}, got "
                f"{show(self.value)}",
                "manifest-value",
            )
        return self.value

    def one_of(self, choices: Sequence[str]) -> str:
        """One of a few words."""
        if self.value not in choices or not isinstance(self.value, str):
            raise refuse(
                self.where, f"expected one of {', '.join(choices)}, got {show(self.value)}", "manifest-value"
            )
        return self.value

    def optional(self, check: Callable[[Reader], Any]) -> None:
        """null, or what ``check`` accepts."""
        if self.value is not None:
            check(self)

    def _type(self, expected: str) -> BundleError:
        return refuse(self.where, f"expected {expected}, got {show(self.value)}", "manifest-type")


def refuse(where: str, detail: str, code: str) -> BundleError:
    """The error for one place in the manifest."""
    return BundleError(f"manifest.json: {show_key(where) or 'the document'}: {detail}", code=code)


def show(value: Any) -> str:
    """``value`` in at most 60 ASCII characters, whatever a hostile file put there."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"
    if isinstance(value, (dict, list, tuple)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def show_key(where: str) -> str:
    """A place in the document without control characters, at most 80 characters."""
    text = ascii(where)[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."


def check_file_name(name: str) -> str:
    """``name`` if it can only be a plain file of the bundle's own folder.

    Raises:
        BundleError: ``bundle-file-name``: a path, a hidden or reserved name, or other than letters, digits,
        ``_.-``.
    """
    if not FILE_NAME.fullmatch(name) or name in RESERVED:
        raise BundleError(
            f"manifest.json: files: {show(name)} is not a plain file name of a bundle (letters, digits, "
            f"'_', '.', '-', no folder, not {' or '.join(RESERVED)})",
            code="bundle-file-name",
        )
    return name


def check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what JSON or UTF-8 cannot hold: NaN, infinity, lone surrogates, foreign types, deep nests."""
    if depth > _DEPTH:
        raise refuse(where, f"nested deeper than {_DEPTH}", "manifest-json")
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise refuse(where, f"expected text as key, got {show(key)}", "manifest-type")
            _check_text(key, where)
            check_plain(member, f"{where}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, member in enumerate(value):
            check_plain(member, f"{where}[{i}]", depth + 1)
    elif isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise refuse(where, f"expected a finite number, got {value}", "manifest-number")
    elif value is not None and type(value) not in (bool, int):
        raise refuse(
            where, f"expected plain JSON, got {type(value).__name__}: convert it first", "manifest-type"
        )


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, tuples as lists, NumPy scalars as numbers, the rest as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(member) for member in value]
    return value.item() if isinstance(value, np.generic) else value


def parse_json(data: bytes) -> Any:
    """The JSON document in ``data`` with every ambiguity refused.

    Raises:
        BundleError: ``manifest-size`` (over 4 MiB), ``manifest-encoding`` (not UTF-8), ``manifest-json``
            (not JSON, or nested too deeply), ``manifest-duplicate-key``, ``manifest-number`` (NaN, infinity,
            overflow).
    """
    if len(data) > MANIFEST_LIMIT:
        raise refuse("", f"expected at most {MANIFEST_LIMIT} bytes, got {len(data)}", "manifest-size")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse(
            "", f"expected UTF-8, got byte {data[error.start]:#04x} at {error.start}", "manifest-encoding"
        ) from None
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except json.JSONDecodeError as error:
        raise refuse(
            "", f"expected JSON: {error.msg} at line {error.lineno} column {error.colno}", "manifest-json"
        ) from None
    except RecursionError:
        raise refuse("", "nested too deeply", "manifest-json") from None


def _check_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise refuse(
            where, "expected text UTF-8 can hold, got a lone surrogate", "manifest-encoding"
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise refuse(key, "given twice", "manifest-duplicate-key")
            seen.add(key)
    return table


def _no_constant(name: str) -> NoReturn:
    raise refuse("", f"expected finite numbers, got {name}", "manifest-number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise refuse("", f"expected finite numbers, got {show(text)}", "manifest-number")
    return value


def _short(text: str) -> int:
    # Python itself refuses to parse more than 4,300 digits with a bare ValueError; no figure here needs 40.
    if len(text) > 40:
        raise refuse("", f"expected at most 40 digits, got {len(text)}", "manifest-number")
    return int(text)

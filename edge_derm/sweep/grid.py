"""The grid file: read, and refused with the line that is wrong before anything is trained."""

from __future__ import annotations

import difflib
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, NoReturn, Sequence

from edge_derm.errors import ModelError
from edge_derm.sweep.cells import Cell, Training

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# As in modeling.stages and modeling.export, which load TensorFlow; a test holds them equal.
VARIANTS = ("mobilenet", "d1", "d2", "d3")
RECIPES = ("float32", "float16", "dynamic", "int8", "int16x8", "onnx")


@dataclass(frozen=True)
class Rule:
    """What one value must be, and how that is said."""

    holds: Callable[[Any], bool]
    expected: str


def _whole(low: int, high: int, what: str) -> Rule:
    return Rule(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
        f"{what} from {low} to {high}",
    )


def _number(low: float, high: float) -> Rule:
    """A number above ``low`` and up to ``high``."""
    return Rule(
        lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low < v <= high,
        f"a number above {low:g}, up to {high:g}",
    )


def _one_of(names: Sequence[str]) -> Rule:
    return Rule(lambda v: v in names, f"one of {', '.join(names)}")


_FLAG = Rule(lambda v: isinstance(v, bool), "true or false")
_TEXT = Rule(lambda v: isinstance(v, str) and bool(v), "a text")

AXES: Mapping[str, tuple[Rule, tuple[Any, ...]]] = {  # rule of each value, default
    "variants": (_one_of(VARIANTS), ("mobilenet",)),
    "widths": (
        Rule(
            lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and 0.25 <= v <= 1,
            "a width (alpha) from 0.25 to 1.0",
        ),
        (0.25,),
    ),
    "sizes": (_whole(32, 1024, "a side in whole pixels"), (128,)),
    "recipes": (_one_of(RECIPES), ("int8",)),
    "seeds": (_whole(0, 2**31 - 1, "a whole number"), (0,)),
}
TABLES: Mapping[str, Mapping[str, Rule]] = {
    "train": {
        "epochs": _whole(1, 100_000, "a whole number"),
        "weights": Rule(
            lambda v: isinstance(v, str)
            or (isinstance(v, dict) and all(isinstance(p, str) for p in v.values())),
            'a path, or a table of paths by width such as {"0.25" = "FILE.h5"}',
        ),
        "dropout": Rule(lambda v: v == 0 or _number(0, 0.9).holds(v), "a number from 0 to 0.9"),
        "dropout_depth": _whole(1, 13, "a whole number of blocks"),
        "budget_min": _number(0, 1e6),
        "hold_out": _number(0, 0.9),
        "harden": _FLAG,
        "attention": _FLAG,
    },
    "bench": {
        "targets": Rule(
            lambda v: isinstance(v, list) and bool(v) and all(isinstance(t, str) for t in v),
            'a list of targets such as ["mcu:mps2-an500"]',
        ),
        "runs": _whole(20, 1_000_000, "a whole number"),
    },
    "evaluate": {"part": _TEXT, "positive": _TEXT, "negative": _TEXT},
}


@dataclass(frozen=True)
class Grid:
    """The axes and what holds for every cell."""

    variants: tuple[str, ...]
    widths: tuple[float, ...]
    sizes: tuple[int, ...]
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # train, bench, evaluate

    def trainings(self) -> list[Training]:
        """A whole survey of the first seed, then of the next."""
        return [
            Training(variant, alpha, size, seed)
            for seed in self.seeds
            for size in self.sizes
            for alpha in self.widths
            for variant in self.variants
        ]

    def cells(self) -> list[Cell]:
        """In the order of ``trainings``."""
        return [Cell(training, recipe) for training in self.trainings() for recipe in self.recipes]


def read_grid(path: Path) -> Grid:
    """Read and check a grid file.

    Raises:
        ModelError: ``grid-missing``, ``grid-syntax``, ``grid-key``, ``grid-empty``, ``grid-value``, ``grid-twice``,
            ``grid-weights``; each names the line.
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: expected a grid file (TOML), found none: check --grid", code="grid-missing"
        )
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: expected a TOML file, got one with an error: {error}", code="grid-syntax"
        ) from None
    reader = Reader(path, text)
    reader.known((), found, [*AXES, *TABLES])
    axes = {name: reader.axis(name, found.get(name, list(default))) for name, (_, default) in AXES.items()}
    options = {name: reader.table(name, found.get(name, {})) for name in TABLES}
    if "weights" in options["train"]:
        options["train"]["weights"] = reader.weights(options["train"]["weights"], axes["widths"])
    return Grid(**axes, options=options)


class Reader:
    """Checks values and knows where in the text they stand."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def refuse(self, where: Sequence[str], value: Any, message: str, code: str) -> NoReturn:
        """Raise, naming the line of the key ``where`` (of ``value``, if that is in a list there)."""
        line = line_of(self.text, where, value)
        place = f"{self.path}, line {line}" if line else str(self.path)
        raise ModelError(f"{place}: {'.'.join(where)}: {message}", code=code)

    def known(self, table: Sequence[str], found: Mapping[str, Any], names: Sequence[str]) -> None:
        """Refuse a key that means nothing here."""
        for key in found:
            if key not in names:
                near = difflib.get_close_matches(key, names, 1)
                hint = f": did you mean {near[0]}?" if near else ": take it out"
                self.refuse(
                    [*table, key],
                    None,
                    f"expected keys out of {', '.join(names)}, got {key!r}{hint}",
                    "grid-key",
                )

    def axis(self, name: str, values: Any) -> tuple[Any, ...]:
        """A list of different values, each as its rule says."""
        rule = AXES[name][0]
        if not isinstance(values, list):
            self.refuse([name], None, f"expected a list, got {values!r}: write [{values!r}]", "grid-value")
        if not values:
            self.refuse([name], None, "expected at least one value, got an empty list", "grid-empty")
        for value in values:
            if not rule.holds(value):
                self.refuse([name], value, f"expected {rule.expected}, got {value!r}", "grid-value")
        twice = [value for at, value in enumerate(values) if value in values[:at]]
        if twice:
            self.refuse([name], None, f"expected different values, got {twice[0]!r} twice", "grid-twice")
        return tuple(float(value) for value in values) if name == "widths" else tuple(values)

    def table(self, name: str, found: Any) -> dict[str, Any]:
        """Options that hold for every cell."""
        if not isinstance(found, dict):
            self.refuse([name], None, f"expected a table [{name}], got {found!r}", "grid-value")
        self.known([name], found, list(TABLES[name]))
        for key, value in found.items():
            rule = TABLES[name][key]
            if not rule.holds(value):
                code = "grid-empty" if value == [] else "grid-value"
                self.refuse([name, key], None, f"expected {rule.expected}, got {value!r}", code)
        return dict(found)

    def weights(self, found: str | Mapping[str, str], widths: Sequence[float]) -> dict[str, str]:
        """A file for each width; paths are relative to the grid file."""
        files = {}
        for width in widths:
            key = f"{width:g}"
            name = found if isinstance(found, str) else found.get(key, found.get(str(width)))
            if name is None:
                self.refuse(
                    ["train", "weights"],
                    None,
                    f"expected a path for every width, got none for {key}",
                    "grid-weights",
                )
            path = (self.path.parent / name).resolve()
            if not path.exists():
                self.refuse(
                    ["train", "weights"], None, f"expected a file, found nothing at {path}", "grid-weights"
                )
            files[key] = str(path)
        return files


def line_of(text: str, where: Sequence[str], value: Any = None) -> int | None:
    """The line, from 1, on which the key ``where`` stands, or ``value`` in the list that begins there; None if unseen."""
    *table, key = where
    current: list[str] = []
    lines = [line.split("#", 1)[0] for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        header = re.match(r"\s*\[+([^\[\]=]+)\]+\s*$", line)
        if header:
            current = [part.strip().strip("\"'") for part in header[1].split(".")]
            if current == list(where):
                return number
        assigned = re.match(r"\s*([\w.\-\"' ]+?)\s*=", line)
        if assigned:
            names = [*current, *(part.strip().strip("\"'") for part in assigned[1].split("."))]
            inline = len(names) < len(where) and names == list(where)[: len(names)]
            if names == [*table, key] or (inline and re.search(rf"\b{re.escape(key)}\b", line)):
                return _line_of_value(lines, number, value)
    return None


def _line_of_value(lines: Sequence[str], start: int, value: Any) -> int:
    """The line at or after ``start`` on which ``value`` is written."""
    if value is None or isinstance(value, (list, dict)):
        return start
    written = "|".join(re.escape(form) for form in {json.dumps(value), repr(value), str(value)})
    for number in range(start, len(lines) + 1):
        line = lines[number - 1].split("=", 1)[-1] if number == start else lines[number - 1]
        if re.search(rf"(?<![\w.\-])(?:{written})(?![\w.])", line):
            return number
        if "]" in line:
            break
    return start

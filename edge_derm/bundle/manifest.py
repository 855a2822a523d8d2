"""``manifest.json`` as frozen data: what a bundle holds, how its model wants pixels, what its outputs mean.

Schema 1. A field is never re-interpreted: a change of meaning gets a new schema number, and a reader meets a
newer number with ``manifest-schema-newer`` instead of a guess.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Mapping

from edge_derm.bundle import fields
from edge_derm.bundle.fields import Reader

SCHEMA = 1

DTYPES = ("int8", "uint8", "int16", "float32")
ACTIVATIONS = ("softmax", "logits")
ORDERS = ("rgb", "bgr")
SCORES = ("lac", "aps", "raps")
DEPTHS = 13  # the most blocks that dropout may reach back over
OPTIONAL = ("calibration", "dropout")  # keys that a bundle from before they existed does not have


@dataclass(frozen=True)
class Input:
    """The model's input: a square image; the model computes on (pixel − mean) / std."""

    size_px: int
    dtype: str
    colour_order: str = "rgb"
    range: tuple[int, int] = (0, 255)
    mean: tuple[float, ...] = (128.0,)  # one value, or one per channel
    std: tuple[float, ...] = (128.0,)


@dataclass(frozen=True)
class Output:
    """The model's output: one score per label, ``softmax`` probabilities or ``logits``."""

    dtype: str
    activation: str = "softmax"


@dataclass(frozen=True)
class Provenance:
    """Where the model came from; what is unknown (an adopted file) is None or empty."""

    source: str | None = None  # an adopted file's name or digest
    data_digest: str | None = None
    split: Mapping[str, Any] | None = None  # {"seed", "digest", "fractions"}
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None


@dataclass(frozen=True)
class Calibration:
    """What ``calibrate`` fitted beyond the three scalars of the manifest.

    ``scale`` and ``shift`` (one value a class, None: 1 and 0): logits → logits / temperature · scale + shift.
    ``score`` of the prediction sets; ``class_quantiles`` replace the manifest's one quantile, class by class;
    ``penalty`` and ``free_rank`` are of ``raps``: each rank past ``free_rank`` adds ``penalty``.
    ``weights`` (one value a class): the label named is the largest of weight · probability; None: the most probable.
    """

    scale: tuple[float, ...] | None = None
    shift: tuple[float, ...] | None = None
    score: str = "lac"
    class_quantiles: tuple[float, ...] | None = None
    penalty: float = 0.0
    free_rank: int = 1
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Dropout:
    """The dropout a model was trained with: its rate, and the blocks it reaches back over (1: the head alone)."""

    rate: float
    depth: int = 1


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: what it is for, its SHA-256 (hex) and its length."""

    role: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle except the bytes of its files; checked when it is built.

    Raises:
        BundleError: a field is not what schema 1 allows (codes ``manifest-…``).
    """

    labels: tuple[str, ...]
    input: Input
    output: Output
    recipe: str
    io: str
    variant: str | None = None
    alpha: float | None = None
    dilation: Mapping[str, int] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    temperature: float | None = None
    conformal_quantile: float | None = None
    abstain_threshold: float | None = None
    calibration: Calibration | None = None
    dropout: Dropout | None = None
    provenance: Provenance = field(default_factory=Provenance)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check(Reader(fields.plain(self)))

    def updated(self, **changes: Any) -> Manifest:
        """A checked copy with ``changes`` applied; this one stays as it is.

        Example:
            >>> manifest = Manifest(labels=("mel", "nv"), input=Input(32, "int8"), output=Output("int8"),
            ...                     recipe="int8", io="int8")
            >>> manifest.updated(temperature=1.3).temperature
            1.3
        """
        return dataclasses.replace(self, **changes)

    def dumps(self) -> str:
        """JSON text with a final newline, keys in the order of the fields above."""
        values = fields.plain(self)
        for name in OPTIONAL:
            if values[name] is None:
                del values[
                    name
                ]  # what was not fitted is not written: readers from before it stay able to read
        if self.calibration is not None and self.calibration.weights is None:
            del values["calibration"]["weights"]
        ordered = {"schema": values.pop("schema"), **values}
        return json.dumps(ordered, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def loads(data: bytes) -> Manifest:
    """The manifest held by ``data``, UTF-8 JSON.

    Raises:
        BundleError: ``manifest-size``, ``manifest-encoding``, ``manifest-json``, ``manifest-duplicate-key``,
            ``manifest-number``, ``manifest-schema``, ``manifest-schema-newer``, ``manifest-key-missing``,
            ``manifest-key-unknown``, ``manifest-type``, ``manifest-value``.
    """
    top = Reader(fields.parse_json(data))
    _check_schema(top)
    _check(top)
    return _build(top.value)


def _check_schema(top: Reader) -> None:
    schema = top.value.get("schema") if isinstance(top.value, dict) else None
    if type(schema) is not int or schema < 1:
        raise fields.refuse(
            "schema", f"expected a whole number from 1, got {fields.show(schema)}", "manifest-schema"
        )
    if schema > SCHEMA:
        raise fields.refuse(
            "schema",
            f"this reader knows schema {SCHEMA}, the bundle has {schema}: install a newer edge-derm",
            "manifest-schema-newer",
        )


def _check(top: Reader) -> None:
    known = [f.name for f in dataclasses.fields(Manifest)]
    top.keys([name for name in known if name not in OPTIONAL], optional=OPTIONAL)
    top.at("schema").whole(1, SCHEMA)
    _check_labels(top.at("labels"))
    _check_input(top.at("input"))
    output = top.at("output")
    output.keys(["dtype", "activation"])
    output.at("dtype").one_of(DTYPES)
    output.at("activation").one_of(ACTIVATIONS)
    top.at("recipe").text()
    top.at("io").one_of(DTYPES)
    top.at("variant").optional(Reader.text)
    top.at("alpha").optional(lambda r: r.number(0.0, 16.0, above=True))
    for rate in top.at("dilation").items():
        rate.whole(1, 64)
    top.at("preprocessing").table()
    top.at("temperature").optional(lambda r: r.number(0.0, 1e6, above=True))
    fitted = top.value.get("calibration")
    regularised = isinstance(fitted, dict) and fitted.get("score") == "raps"  # whose scores may pass 1
    top.at("conformal_quantile").optional(lambda r: r.number(0.0, 1e6 if regularised else 1.0))
    top.at("abstain_threshold").optional(lambda r: r.number(0.0, 1.0))
    if top.value.get("calibration") is not None:
        _check_calibration(top.at("calibration"), len(top.value["labels"]))
    if top.value.get("dropout") is not None:
        _check_dropout(top.at("dropout"))
    _check_provenance(top.at("provenance"))
    top.at("metrics").table()
    for entry in top.at("files").items():
        _check_file(entry)


def _check_labels(labels: Reader) -> None:
    entries = labels.sequence(2, 100_000)
    for entry in entries:
        entry.text(limit=200)
    if len({entry.value for entry in entries}) != len(entries):
        raise fields.refuse("labels", "every label once, got a repeated one", "manifest-value")


def _check_input(reader: Reader) -> None:
    reader.keys([f.name for f in dataclasses.fields(Input)])
    reader.at("size_px").whole(1, 8192)
    reader.at("dtype").one_of(DTYPES)
    reader.at("colour_order").one_of(ORDERS)
    if list(reader.at("range").value or ()) != [0, 255]:
        raise fields.refuse("input.range", "schema 1 knows only [0, 255]", "manifest-value")
    for name in ("mean", "std"):
        values = reader.at(name).sequence(1, 3)
        if len(values) == 2:
            raise fields.refuse(f"input.{name}", "expected 1 or 3 numbers, got 2", "manifest-value")
        for value in values:
            value.number(*((-1e6, 1e6) if name == "mean" else (0.0, 1e6)), above=name == "std")


def _check_calibration(reader: Reader, classes: int) -> None:
    names = [f.name for f in dataclasses.fields(Calibration)]
    reader.keys([name for name in names if name != "weights"], optional=["weights"])
    ranges = {"scale": (0.0, 1e6), "shift": (-1e6, 1e6), "class_quantiles": (0.0, 1e6), "weights": (0.0, 1e6)}
    for name, (low, high) in ranges.items():
        if reader.value.get(name) is not None:
            for value in reader.at(name).sequence(classes, classes):
                value.number(low, high, above=name in ("scale", "weights"))
    reader.at("score").one_of(SCORES)
    reader.at("penalty").number(0.0, 1.0)
    reader.at("free_rank").whole(0, 100_000)


def _check_dropout(reader: Reader) -> None:
    reader.keys([f.name for f in dataclasses.fields(Dropout)])
    reader.at("rate").number(0.0, 0.95)
    reader.at("depth").whole(1, DEPTHS)


def _check_provenance(reader: Reader) -> None:
    reader.keys([f.name for f in dataclasses.fields(Provenance)])
    reader.at("source").optional(Reader.text)
    reader.at("data_digest").optional(Reader.text)
    reader.at("split").optional(Reader.table)
    reader.at("seed").optional(lambda r: r.whole(-(2**63), 2**64))
    for version in reader.at("versions").items():
        version.text()
    reader.at("command").optional(lambda r: r.text(limit=65_536))


def _check_file(entry: Reader) -> None:
    fields.check_file_name(entry.where.removeprefix("files."))
    entry.keys([f.name for f in dataclasses.fields(FileEntry)])
    entry.at("role").text(limit=100)
    digest = entry.at("sha256")
    if not (isinstance(digest.value, str) and fields.DIGEST.fullmatch(digest.value)):
        raise fields.refuse(
            digest.where,
            f"expected 64 lower-case hex digits, got {fields.show(digest.value)}",
            "manifest-value",
        )
    entry.at("bytes").whole(0, 2**31 - 1)


def _build(value: dict[str, Any]) -> Manifest:
    values = dict(value)
    shape = dict(values["input"])
    for name in ("range", "mean", "std"):
        shape[name] = tuple(shape[name])
    values["labels"] = tuple(values["labels"])
    values["input"] = Input(**shape)
    values["output"] = Output(**values["output"])
    if values.get("calibration") is not None:
        fitted = dict(values["calibration"])
        for name in ("scale", "shift", "class_quantiles", "weights"):
            fitted[name] = None if fitted.get(name) is None else tuple(fitted[name])
        values["calibration"] = Calibration(**fitted)
    if values.get("dropout") is not None:
        values["dropout"] = Dropout(**values["dropout"])
    values["provenance"] = Provenance(**values["provenance"])
    values["files"] = {name: FileEntry(**entry) for name, entry in values["files"].items()}
    return Manifest(**values)

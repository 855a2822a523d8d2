"""The bench record: its JSON Schema, and that an emulated one cannot carry a time, whichever way one tries."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from edge_derm.cli.bench import text
from edge_derm.errors import TargetError
from edge_derm.measure import local, record, targets
from edge_derm.measure.benchmark import measure
from edge_derm.measure.environment import environment

VALIDATOR = jsonschema.Draft202012Validator(record.schema())
MEMORY = {
    "model_bytes": 10,
    "arena_bytes": 4096,
    "peak_rss_bytes": None,
    "peak_rss_bytes_reason": "no process to look at",
}
COMPARED = {
    "ratio": {"value": 0.9, "low": 0.9, "high": 0.9},
    "verdict": "fewer",
    "other": {"model": "b.tflite", "instructions": 10},
}


def real(**more):
    taken = measure(lambda: None, runs=50).record()
    rest = {"memory": MEMORY, "environment": environment(), "backend": "litert", "threads": 1, **more}
    return record.measured(Path("a.tflite"), b"abc", target="local", latency_ms=taken, **rest)


def emulated(**more):
    rest = {"memory": MEMORY, "environment": environment(), **more}
    return record.emulated(Path("a.tflite"), b"abc", target="qemu:x", instructions=9, **rest)


def test_the_schema_is_itself_valid():
    jsonschema.Draft202012Validator.check_schema(record.schema())


@pytest.mark.parametrize(
    "made",
    [
        real(),
        real(ratio=COMPARED["ratio"], verdict="faster", other={"model": "b"}),
        emulated(),
        emulated(**COMPARED),
    ],
    ids=["real", "real-compared", "emulated", "emulated-compared"],
)
def test_both_kinds_of_record_fit_the_schema_and_print(made):
    VALIDATOR.validate(made)
    assert record.check(made) is made
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    said = text(made)
    assert made["target"] in said and ("9 instructions" in said) == made["emulated"]
    assert ("ms" in said.split("no latency")[0]) != made["emulated"]


def test_a_comparison_that_was_not_counted_says_so():
    """A whole board counts on request only; who asked for --compare must not be left without a word."""
    uncounted = {**emulated(other={"model": "b"}), "instructions": None, "instructions_reason": "not asked"}
    assert "against the other: not compared: not asked" in text(record.check(uncounted))


def put(made, path, value):
    damaged = copy.deepcopy(made)
    inner = damaged
    for key in path[:-1]:
        inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
    inner[path[-1]] = value
    return damaged


TIMES = [
    (("latency_ms",), real()["latency_ms"]),
    (("other", "latency_ms"), {"p50": 1.0}),
    (("mean_us",), 3.0),
    (("extra", "deeper", "total_seconds"), 0.0),
    (("stages",), [{"name": "x", "p50_ns": 5}]),
]


@pytest.mark.parametrize(
    "path, value", TIMES, ids=lambda value: ".".join(value) if isinstance(value, tuple) else ""
)
def test_an_emulated_record_cannot_carry_a_time(path, value):
    damaged = put(emulated(**COMPARED), path, value)
    assert not VALIDATOR.is_valid(damaged)
    with pytest.raises(TargetError, match="no time in an emulated record") as caught:
        record.check(damaged)
    assert caught.value.code == "record-emulated-time"


def test_a_latency_handed_to_the_maker_of_emulated_records_does_not_get_in():
    made = emulated(latency_ms={"p50": 1.0}, latency_ms_reason=None)
    assert made["latency_ms"] is None and made["latency_ms_reason"]


def test_a_ratio_of_times_does_not_fit_an_emulated_record():
    assert not VALIDATOR.is_valid({**emulated(**COMPARED), "ratio_of": "latency_ms"})


@pytest.mark.parametrize("key", record.schema()["required"])
def test_every_key_of_the_record_is_needed(key):
    for made in (real(), emulated()):
        assert not VALIDATOR.is_valid({name: value for name, value in made.items() if name != key})


@pytest.mark.parametrize(
    "change",
    [
        {"latency_ms": None},
        {"instructions_reason": None},
        {"schema": 2},
        {"model_sha256": "AB"},
        {"memory": {**MEMORY, "peak_rss_bytes_reason": ""}},
        {"memory": {**MEMORY, "arena_bytes": None}},
        {"ratio": {"value": 1.0, "low": 1.0, "high": 1.0}},
        {
            "ratio": {"value": -1.0, "low": 1.0, "high": 1.0},
            "verdict": "faster",
            "ratio_of": "latency_ms",
            "other": {"model": ""},
        },
        {"latency_ms": {**real()["latency_ms"], "samples": [1.0] * 49}},
        {"emulated": "no"},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_wrong_value_does_not_fit(change):
    VALIDATOR.validate(real())
    assert not VALIDATOR.is_valid({**real(), **change})


def test_check_refuses_what_it_can_without_a_schema_library():
    for change, code in (
        ({"latency_ms": None}, "record-latency"),
        ({"schema": 2}, "record-schema"),
        ({"instructions_reason": None}, "record-reason"),
    ):
        with pytest.raises(TargetError) as caught:
            record.check({**real(), **change})
        assert caught.value.code == code


@pytest.mark.slow
def test_what_local_returns_fits_the_schema(tiny_bundle):
    for made in (targets.bench(tiny_bundle, runs=50), local.bench(tiny_bundle, compare=tiny_bundle, runs=50)):
        VALIDATOR.validate(made)

"""Every malformation the reader names has a file, and the file gets exactly that name."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest

from firmware_bridge import attachments, flatbuffer, tflite
from firmware_bridge.attachments import read_labels
from firmware_bridge.graph import FormatError
from firmware_bridge.tflite import parse

FOLDER = Path(__file__).parent / "attacks" / "tflite"
ATTACKS = sorted(FOLDER.glob("*.tflite"))

sys.path.insert(0, str(FOLDER.parent))


def read_all(data: bytes) -> None:
    read_labels(data, parse(data))


def refused(data: bytes) -> str:
    with pytest.raises(FormatError) as error:
        read_all(data)
    message = str(error.value)
    assert message.isprintable() and "expected" in message and ", got " in message and len(message) < 600
    return error.value.code


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda path: path.stem)
def test_every_hostile_file_is_refused_by_its_name(attack: Path) -> None:
    assert refused(attack.read_bytes()) == attack.stem.split("--")[0]
    assert attack.stat().st_size < 8192


def test_every_documented_code_has_a_file_and_every_file_a_documented_code() -> None:
    documented = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+|truncated|misaligned", _codes(tflite.__doc__)))
    documented |= set(re.findall(r"``(zip-[a-z-]+)``", str(attachments.__doc__)))
    files = {attack.stem.split("--")[0] for attack in ATTACKS}
    assert files | {"too-many-entries"} == documented  # that file has 262 kB: made in the test below


def _codes(text: str | None) -> str:
    return " ".join(re.findall(r"``([^`]+)``", str(text).split("One FormatError code")[1], re.DOTALL))


def test_more_entries_than_any_model_has_are_refused() -> None:
    from make import ROOT_TABLES, follow, place, put

    good = (FOLDER / "unknown-version--4.tflite").read_bytes()
    good = put(good, place(good, follow(good, 0), 0), "I", 3)
    parse(good)
    field, start, count = (
        place(good, follow(good, 0), ROOT_TABLES["codes"]),
        len(good),
        flatbuffer.MAX_ENTRIES + 1,
    )
    data = put(good, field, "I", start - field) + struct.pack("<I", count) + bytes(4 * count)
    assert refused(data) == "too-many-entries"


def test_the_files_are_those_the_script_makes() -> None:
    from make import attacks

    made = attacks()
    assert set(made) == {attack.stem for attack in ATTACKS}
    assert all(refused(data) == name.split("--")[0] for name, data in made.items())

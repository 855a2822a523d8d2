"""One command for every table: what is there is not made again, what fails leaves nothing and is named."""

from __future__ import annotations

import json
import sys

import click
import pytest
from click.testing import CliRunner
from scripts_of import benchmark

reproduce = benchmark("reproduce")
WRITES = "import sys, json; json.dump(sys.argv[1:], open(sys.argv[-1], 'w'))"


def test_a_record_is_made_once(tmp_path, capfd):
    cells = reproduce.Cells(tmp_path / "work")
    cells.run("first", [sys.executable, "-c", WRITES, "a"], option="--out")
    assert json.loads((tmp_path / "work/first.json").read_text())[:2] == ["a", "--out"]
    cells.run("first", [sys.executable, "-c", "raise SystemExit(1)"])
    assert capfd.readouterr().err.count("first …") == 1


def test_what_is_printed_can_be_the_record(tmp_path):
    cells = reproduce.Cells(tmp_path)
    cells.run("said", [sys.executable, "-c", "print('{}')"], option="")
    assert [path.name for path in tmp_path.iterdir()] == ["said.json"]
    assert json.loads((tmp_path / "said.json").read_text()) == {}


@pytest.mark.parametrize("option", ["--json", ""])
def test_what_fails_is_named_and_leaves_nothing(tmp_path, option):
    cells = reproduce.Cells(tmp_path)
    with pytest.raises(click.ClickException) as refused:
        cells.run("broken", [sys.executable, "-c", "print(1); raise SystemExit(7)"], option=option)
    assert "broken: exit status 7" in refused.value.message and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["one", "two", "three"], ["--quick", "one"]])
def test_too_few_words_say_what_is_expected(tmp_path, words):
    done = CliRunner().invoke(reproduce.main, [*words, "--work", str(tmp_path / "work")])
    assert done.exit_code == 2 and "expected HAM10000 CALTECH101" in done.output
    assert not (tmp_path / "work").exists()

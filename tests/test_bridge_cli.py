"""firmware-bridge: what a command raises becomes one line and the promised exit status."""

from __future__ import annotations

import sys
from types import ModuleType

import click
import pytest

from firmware_bridge import cli
from firmware_bridge.graph import LinkError


def run_with(monkeypatch, error, *arguments: str) -> int:
    """Exit status of ``firmware-bridge try`` whose command raises ``error`` (or nothing for None)."""
    module = ModuleType("firmware_bridge.cli.trial")

    @click.command("try")
    def attempt() -> None:
        if error is not None:
            raise error

    setattr(module, "try", attempt)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "try", ("trial", "A trial."))
    with pytest.raises(SystemExit) as leave:
        cli.main(list(arguments or ("try",)))
    return int(leave.value.code or 0)


@pytest.mark.parametrize(
    "error, status, said",
    [
        (None, 0, ""),
        (LinkError("expected\na frame", code="x"), 1, "firmware-bridge: expected a frame\n"),
        (FileNotFoundError(2, "No such file", "m.tflite"), 1, "firmware-bridge: m.tflite: No such file\n"),
        (KeyboardInterrupt(), 130, "firmware-bridge: interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_its_status(monkeypatch, capsys, error, status, said):
    assert run_with(monkeypatch, error) == status
    assert capsys.readouterr().err.lstrip("\n") == said


@pytest.mark.parametrize("arguments", [("nothing-such",), ("try", "--nothing-such")])
def test_bad_usage_exits_with_two(monkeypatch, capsys, arguments):
    assert run_with(monkeypatch, None, *arguments) == 2
    assert "nothing-such" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(monkeypatch, capsys, option):
    assert run_with(monkeypatch, None, option) == 0
    assert "A trial." in capsys.readouterr().out

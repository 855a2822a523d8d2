"""``firmware-bridge``: each command parses, calls one public function of the package, prints.

A command's module is imported only when the command is asked for. Exit status: 0 success, 1 a refusal (one line on
stderr), 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from ..graph import BridgeError

# command -> (module in this package, one line for the list); the module has a click command of the same name
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("make", "A model as a folder of portable C99."),
    "run": ("run", "A model on this machine or an emulated board: output, instructions, bytes."),
    "serve": ("serve", "An emulated board that serves a network over the link."),
    "infer": ("infer", "One inference on a device over the framed link."),
    "tflm": ("tflm", "C array, op resolver and measured arena for TensorFlow Lite Micro."),
}


class Commands(click.Group):
    """The list of commands; a command's module is imported when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        return getattr(module, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if COMMANDS:
            with formatter.section("Commands"):
                formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """int8 .tflite image classifiers as plain C99 for microcontrollers."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; errors become one line on stderr."""
    try:
        sys.exit(cli.main(args=arguments, prog_name="firmware-bridge", standalone_mode=False) or 0)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (BridgeError, OSError) as error:
        fail(describe(error), 1)


def fail(line: str, status: int) -> NoReturn:
    """Print one line on stderr and exit with ``status``."""
    click.echo(f"firmware-bridge: {' '.join(line.split())}", err=True)
    sys.exit(status)


def describe(error: BaseException) -> str:
    """One line for a person: an operating-system error gets its file and its reason."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__

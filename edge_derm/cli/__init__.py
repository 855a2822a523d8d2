"""``edge-derm``: each command parses, calls one function of a wing, prints.

Commands live in one file a group and are imported only when they run, so ``edge-derm --help`` costs no NumPy and a
board never needs TensorFlow. Exit status: 0 success, 1 a refusal or a failed gate (one line on stderr), 2 bad usage,
130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import EdgeDermError

# command -> (module, one line for the list)
COMMANDS = {
    "demo": ("demo", "The main job on the built-in data, start to end."),
    "train": ("make", "Train a Dilated-MobileNet on a folder of labelled images."),
    "compress": ("compress", "Prune, cluster or distil a trained model, with its parent as teacher."),
    "export": ("make", "Turn a trained model into a verified bundle."),
    "adopt": ("make", "Make a bundle of anyone's .tflite image classifier."),
    "inspect": ("look", "What is inside a bundle or a .tflite file."),
    "predict": ("look", "Classify images."),
    "verify": ("judge", "Does the deployed file decide like its float parent?"),
    "evaluate": ("judge", "Metrics with 95 % intervals on labelled images."),
    "calibrate": (
        "calibrate",
        "Honest probabilities, prediction sets and when to abstain, into the manifest.",
    ),
    "uncertainty": ("uncertainty", "Which measure finds wrong answers and foreign images."),
    "sweep": ("sweep", "A grid of variants, widths, sizes, recipes and seeds, here or on a Dask cluster."),
    "audit": ("audit", "Universal adversarial perturbations, on the float model and on the deployed file."),
    "infoplane": (
        "infoplane",
        "Information plane: rank models, and say how many images a class still needs.",
    ),
    "bench": ("bench", "Latency and memory."),
    "targets": ("targets", "Where a model can be measured from here, and what is missing."),
    "sbom": ("deploy", "What a release is made of (CycloneDX), into the bundle."),
    "keygen": ("sign", "A new key pair for signing bundles."),
    "sign": ("sign", "Sign a bundle: its manifest, hence every file."),
    "verify-signature": ("sign", "Is a bundle whole, and signed by a key you trust?"),
    "camera": ("camera", "The camera loop: in a browser, in a window, or headless."),
    "deploy": ("deploy", "Install a bundle as a service on boards over SSH."),
    "rollback": ("deploy", "Let a board run the release before."),
    "status": ("deploy", "What a board runs, and how it is."),
    "drift": ("drift", "Does the camera still see what the model was calibrated on?"),
    "report": ("report", "One self-contained HTML page from runs, bundles and records."),
}


class Commands(click.Group):
    """The list of commands; a command's module is imported when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        return getattr(module, cmd_name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-derm")
def cli() -> None:
    """Compressed image classifiers for small boards, with the evidence to trust them there.

    Not a medical device.

    \b
    Example:  edge-derm demo --out demo
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; errors become one line on stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        sys.exit(cli.main(args=arguments, prog_name="edge-derm", standalone_mode=False) or 0)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted: nothing half-written was left; run the same command again", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (EdgeDermError, OSError) as error:
        fail(describe(error), 1)
    except ImportError as error:
        fail(missing_package(error), 1)
    except Exception as error:
        if not is_bridge_error(error):
            raise
        fail(describe(error), 1)


def fail(line: str, status: int) -> NoReturn:
    """Print one line on stderr and exit with ``status``."""
    click.echo(f"edge-derm: {' '.join(line.split())}", err=True)
    sys.exit(status)


def describe(error: BaseException) -> str:
    """One line for a person: an operating-system error gets its file and its reason."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error) or type(error).__name__


def is_bridge_error(error: BaseException) -> bool:
    """Whether ``error`` comes from firmware_bridge, without importing it for nothing."""
    graph: Any = sys.modules.get("firmware_bridge.graph")
    return graph is not None and isinstance(error, graph.BridgeError)


def missing_package(error: ImportError) -> str:
    """Name the extra that brings a missing package."""
    package = (error.name or "").split(".")[0]
    if package in {"tensorflow", "keras"}:
        return (
            f"this command needs TensorFlow and found no package {package!r}: "
            "pip install 'edge-derm[train]' (a board does not need it: train and export elsewhere)"
        )
    if package in {"jax", "jaxlib"}:
        return "KERAS_BACKEND=jax needs JAX: pip install 'edge-derm[jax]', or unset KERAS_BACKEND"
    if package == "packaging":
        return "this command needs the package packaging: pip install 'edge-derm[deploy]'"
    if package == "cryptography":
        return "this command needs the package cryptography: pip install 'edge-derm[sign]'"
    if package in {"distributed", "dask"}:
        return "--dask needs the package distributed: pip install 'edge-derm[sweep]' (workers need 'edge-derm[train,sweep]')"
    return f"a needed package is missing: {error}"

"""``serve``: an emulated board that serves a network over the link, its UART on a TCP port."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import click

from ..board import BOARDS, emulator, find_board
from ..graph import BoardError
from ..loopback import build_device
from ..network import read_network
from ..project import make_golden, project_files, write_sources


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="MODEL.tflite")
@click.option(
    "--board",
    type=click.Choice([name for name, place in BOARDS.items() if place.emulated]),
    default="mps2-an500",
    show_default=True,
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5555, show_default=True, help="On this machine only."
)
def serve(model: Path, board: str, port: int) -> None:
    """Serve a network from an emulated board until interrupted.

    \b
    Example:  firmware-bridge serve model.tflite --board mps2-an500 --port 5555 &
              firmware-bridge infer --port tcp://127.0.0.1:5555 lesion.jpg
    """
    network = read_network(model.read_bytes())
    place = find_board(board)
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        net = Path(folder) / "net"
        write_sources(project_files(network, golden=make_golden(network)), net)
        made = build_device(net, Path(folder) / "built", board=place)
        serial = f"tcp:127.0.0.1:{port},server=on,wait=off"
        click.echo(f"{board} listens: firmware-bridge infer --port tcp://127.0.0.1:{port} IMAGE", err=True)
        done = subprocess.run(
            emulator(place, made.executable, serial=serial), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    said = done.stderr.decode(errors="replace").strip()[-300:]
    raise BoardError(f"{board}: the emulator ended with status {done.returncode}: {said}", code="board-ended")

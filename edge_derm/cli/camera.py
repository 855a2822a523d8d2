"""``camera``: the loop, in a browser, a window, or headless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import DataError
from . import options as shared


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True, metavar="B")
@click.option(
    "--source",
    default="0",
    show_default=True,
    envvar="EDGE_DERM_SOURCE",
    metavar="0|FILE|DIR|rtsp://…|picamera2|synthetic",
    help="Camera number, video file, folder of pictures, stream, Raspberry Pi camera, or drawn lesions. In the variable "
    "EDGE_DERM_SOURCE instead, a stream's password stays out of the process list.",
)
@click.option("--view", type=click.Choice(["window", "web", "none"]), default="web", show_default=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve the page on; 0.0.0.0 opens it to the network, behind a one-time link.",
)
@shared.setting("--port", click.IntRange(0, 65535), 8080, "0: any free one.")
@click.option("--mask", is_flag=True, help="Show where a bundle trained with --attention looks.")
@click.option("--frames", type=click.IntRange(1), help="Stop after so many frames.")
@click.option("--repeat", is_flag=True, help="Start a file or folder again at its end.")
@click.option(
    "--deadline", "deadline_s", type=float, default=1.0, show_default=True, help="Seconds an answer may take."
)
@click.option(
    "--inline",
    is_flag=True,
    help="Infer in this process: no deadline, no restart; for emulators and other places that cannot start a second one.",
)
@shared.path_option("--log", "DIR", "Keep predictions as JSON lines (no pixels).")
@click.option(
    "--log-limit", "log_limit_mb", type=click.FloatRange(1), default=200.0, show_default=True, metavar="MB"
)
@click.option(
    "--save-frames", is_flag=True, help="With --log and --consent: keep at most one picture a second."
)
@click.option("--consent", metavar="NOTE", help="A reference to the consent for keeping pictures; no names.")
@shared.backend_option
@shared.threads_option
@shared.json_option
def camera(json_file: str | None, save_frames: bool, consent: str | None, **choices: Any) -> None:
    """Camera → quality gate → classifier → view, until Ctrl-C. Not a medical device.

    \b
    Example:  edge-derm camera --bundle d1.bundle --source synthetic --view web
    """
    if save_frames != bool(consent) or (save_frames and not choices["log"]):
        raise DataError(
            "--save-frames: expected --log DIR, --save-frames and --consent NOTE together, got only some of them: "
            "pictures of people are kept only with all three",
            code="consent",
        )
    from ..camera.show import show

    record = show(consent=consent, say=lambda line: click.echo(line, err=True), **choices)
    total, fps = record["latency_ms"]["total"], record["fps"]
    text = f"{record['frames']} frames, {record['dropped']} dropped, {record['quality_rejected']} refused by the gate"
    text += f", {record['abstained']} abstained"
    if total and fps:
        text += f"; {fps:.0f} frames a second, {total['p50']:.1f} ms (95 % within {total['p95']:.1f} ms)"
    shared.emit(record, json_file, text)

"""``infer``: one inference on a device at the other end of the framed link."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Iterator

import click

from .. import transports
from ..device import Answer, Device, Patience, Transport
from ..graph import LinkError
from ..inputs import read_input
from ..link import DeviceInfo
from . import options as shared


@click.command()
@click.option("--port", required=True, metavar="PORT", help="loop://, tcp://HOST:PORT or a serial device.")
@click.argument("image", metavar="IMAGE|FILE.npy|lcg:SEED")
@click.option(
    "--net",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="For loop://: serve the folder that generate wrote.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tflite",
    help="Refuse a device that serves another model. For loop://: serve this one.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="One label a line; the answer is then named.",
)
@click.option(
    "--baud", type=click.IntRange(1), default=transports.BAUD, show_default=True, help="Serial speed."
)
@click.option(
    "--mean", type=float, default=128.0, show_default=True, help="The model computes on (pixel - mean) / std."
)
@click.option("--std", type=float, default=128.0, show_default=True)
@click.option(
    "--timeout", type=float, default=0.5, show_default=True, metavar="S", help="Until a request is repeated."
)
@click.option(
    "--attempts", type=click.IntRange(1), default=10, show_default=True, help="Requests before giving up."
)
@shared.json_option
def infer(
    port: str, image: str, json_file: str | None, timeout: float, attempts: int, **choices: Any
) -> None:
    """One inference on a device, an emulated board or this machine.

    loop:// compiles the device's C for this machine; without --model or --net it serves a stand-in that tells red from
    green from blue.

    \b
    Example:  firmware-bridge infer --port /dev/ttyACM0 --labels labels.txt lesion.jpg
    """
    labels = _read_labels(choices["labels"])
    with _open(port, choices["net"], choices["model"], choices["baud"]) as transport:
        device = Device(transport, patience=Patience(timeout_s=timeout, attempts=attempts))
        info = device.describe()
        _check_model(info, choices["model"])
        _check_labels(info, labels)
        answer = device.infer(read_input(image, info.input, mean=choices["mean"], std=choices["std"]))
    record = make_record(port, image, info, answer, labels)
    shared.emit(record, json_file, text(record))


def make_record(
    port: str, image: str, info: DeviceInfo, answer: Answer, labels: list[str] | None
) -> dict[str, Any]:
    """Return the command's JSON; ``abstained`` is null where the firmware does not decide."""
    index = answer.label_index
    if answer.decision is not None and answer.decision >= 0:
        index = answer.decision
    return {
        "record": "infer",
        "port": port,
        "image": image,
        "label_index": index,
        "label": labels[index] if labels else None,
        "abstained": None if answer.decision is None else answer.decision < 0,
        "output": answer.output.tolist(),
        "scores": [(value - info.output.zero_point) * info.output.scale for value in answer.output.tolist()],
        "device_us": answer.device_us,
        "retries": answer.retries,
        "self_check": answer.self_check.name.lower(),
        "model_sha256": info.model_sha256,
    }


def text(record: dict[str, Any]) -> str:
    """The record in one line."""
    name = record["label"] or f"class {record['label_index']}"
    given = f"{name} ({record['scores'][record['label_index']]:.3f})"
    abstained = ", the device abstains" if record["abstained"] else ""
    return f"{given}{abstained}, {record['device_us']} µs on the device, {record['retries']} retries"


@contextlib.contextmanager
def _open(port: str, net: Path | None, model: Path | None, baud: int) -> Iterator[Transport]:
    if not port.startswith("loop://") and net is not None:
        raise click.UsageError("--net belongs to --port loop://: a device serves what was flashed into it")
    if not port.startswith("loop://"):
        with transports.open_port(port, baud=baud) as place:
            yield place
        return
    from ..loopback import DEMO, loop_model, loopback

    with loop_model(model.read_bytes()) if model and not net else loopback(net or DEMO) as program:
        yield program


def _read_labels(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _check_model(info: DeviceInfo, path: Path | None) -> None:
    if path is None:
        return
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != info.model_sha256:
        raise LinkError(
            f"expected a device that serves {path} (SHA-256 {digest[:12]}…), got one that serves "
            f"{info.model_sha256[:12]}…: flash it with what generate makes of this file",
            code="other-model",
        )


def _check_labels(info: DeviceInfo, labels: list[str] | None) -> None:
    if labels is None:
        return
    if len(labels) != info.output.bytes:
        raise LinkError(
            f"labels: expected {info.output.bytes}, one for each output of the device, got {len(labels)}",
            code="labels-mismatch",
        )
    digest = hashlib.sha256("\n".join(labels).encode()).hexdigest()
    if info.labels_sha256 not in (None, digest):
        raise LinkError(
            f"labels: expected those the firmware was built with (SHA-256 {str(info.labels_sha256)[:12]}…), "
            f"got {digest[:12]}…",
            code="labels-mismatch",
        )

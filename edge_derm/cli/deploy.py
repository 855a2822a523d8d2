"""Commands for boards: ``deploy``, ``rollback``, ``status``, and ``sbom``, what a release is made of."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ..deploy import deploying, listing
from ..deploy.release import Options
from ..errors import DataError, TargetError
from . import options as shared

one_target = click.option("--to", "target", required=True, metavar="ssh://user@host[:port]")
root_option = click.option(
    "--root",
    default="",
    metavar="DIR",
    help="Where on the board (default: /opt/edge-derm as root or with sudo, else ~/.local/share/edge-derm).",
)
wait_option = click.option(
    "--wait", "wait_s", type=float, default=60.0, show_default=True, help="Seconds to become healthy."
)


@click.command()
@shared.bundle_argument
@click.option(
    "--to", "targets", multiple=True, metavar="ssh://user@host[:port]", help="May be given several times."
)
@shared.path_option("--inventory", "FILE", "Boards, one ssh:// address a line.")
@click.option("--service", type=click.Choice(["camera", "none"]), default="camera", show_default=True)
@click.option("--source", default="0", show_default=True, help="The camera's source on the board.")
@shared.setting("--port", click.IntRange(1, 65535), 8080, "Of the page, on loopback.")
@shared.path_option("--trust", "KEY.pub", "The board accepts only bundles of this key.")
@click.option("--latency-budget", "latency_ms", type=float, metavar="MS", help="Refuse a slower release.")
@click.option("--memory-budget", "memory_mb", type=float, metavar="MB", help="Refuse a larger one.")
@shared.path_option(
    "--measured",
    "BENCH.json",
    "The record of bench of this bundle on such a board: the budgets are checked against it before anything is sent.",
)
@shared.setting("--keep", click.IntRange(2), 3, "Releases to keep.", metavar="N")
@click.option("--dry-run", is_flag=True, help="Look and count; change nothing.")
@root_option
@wait_option
@shared.json_option
def deploy(
    bundle: Path,
    targets: tuple[str, ...],
    inventory: Path | None,
    service: str,
    source: str,
    port: int,
    trust: Path | None,
    latency_ms: float | None,
    memory_mb: float | None,
    json_file: str | None,
    **choices: Any,
) -> None:
    """Install a bundle as a service on boards: offline there, tested there, switched at once, rolled back by itself.

    Of several boards the first goes alone; the others follow only if it is healthy.

    \b
    Example:  edge-derm deploy d1.bundle --to ssh://pi@raspberrypi --source picamera2
    """
    boards = [*targets, *(_read(inventory) if inventory else [])]
    if not boards:
        raise DataError(
            "--to: expected at least one board, got none: give --to ssh://user@host", code="no-board"
        )
    options = Options(
        service=None if service == "none" else service,
        source=source,
        port=port,
        latency_ms=latency_ms,
        memory_mb=memory_mb,
        trust=trust is not None,
    )
    one = partial(_one, bundle, options, trust, choices)
    if len(boards) == 1:
        record = one(boards[0])
        shared.emit(record, json_file, line(record))
        return
    records = deploying.deploy_all(boards, one)
    failed = [record for record in records if "error" in record]
    whole = {"boards": records, "failed": len(failed)}
    shared.emit(whole, json_file, "\n".join(map(line, records)))
    if failed:
        raise TargetError(
            f"{len(failed)} of {len(records)} boards do not run the release: see above", code="boards-failed"
        )


def _one(
    bundle: Path, options: Options, trust: Path | None, choices: dict[str, Any], target: str
) -> dict[str, Any]:
    return deploying.deploy(bundle, target, options, trust=trust, say=shared.say, **choices)


@click.command()
@one_target
@root_option
@wait_option
@shared.json_option
def rollback(json_file: str | None, **choices: Any) -> None:
    """Let a board run the release before.

    \b
    Example:  edge-derm rollback --to ssh://pi@raspberrypi
    """
    record = deploying.rollback(**choices)
    shared.emit(record, json_file, line(record))


@click.command()
@one_target
@root_option
@shared.json_option
def status(json_file: str | None, **choices: Any) -> None:
    """What a board runs, and how it is.

    \b
    Example:  edge-derm status --to ssh://pi@raspberrypi
    """
    record = deploying.status(**choices)
    shared.emit(record, json_file, line(record))


@click.command()
@shared.bundle_argument
@click.option(
    "--board",
    "boards",
    multiple=True,
    default=["3.11-aarch64", "3.13-aarch64"],
    show_default=True,
    metavar="PYTHON-MACHINE",
    help="Kinds of boards the bundle is meant for; may be given several times.",
)
@shared.json_option
def sbom(bundle: Path, boards: tuple[str, ...], json_file: str | None) -> None:
    """Put the list of the model and all packages of its releases (CycloneDX) into the bundle; sign it afterwards.

    A deployment then sends only packages that are listed, by digest.

    \b
    Example:  edge-derm sbom d1.bundle --board 3.11-aarch64
    """
    record = listing.attach(bundle, boards)
    text = (
        f"{bundle}: sbom.cdx.json lists the model and {record['packages']} packages for {', '.join(boards)}"
    )
    if record["signature_removed"]:
        text += "\n  the signature no longer fitted and was removed: sign the bundle again"
    shared.emit(record, json_file, text)


def line(record: dict[str, Any]) -> str:
    """One board in one line."""
    if "error" in record:
        return f"{record['target']}: {record['error']}"
    if record.get("dry_run"):
        return f"{record['target']}: would send {record['bytes_to_send']:,} bytes as {record['release']}"
    health = "healthy" if record["healthy"] else "NOT healthy"
    sent = f", {record['bytes_sent']:,} bytes sent" if "bytes_sent" in record else ""
    return f"{record['target']}: {record['release'] or 'no release'}, {health}, before it {record['previous'] or 'none'}{sent}"


def _read(path: Path) -> list[str]:
    lines = (text.split("#")[0].strip() for text in path.read_text().splitlines())
    return [text for text in lines if text]

"""The steps of a deployment, from a bundle here to a healthy service there; each board gives one record."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from edge_derm.bundle import open_bundle
from edge_derm.deploy import budget
from edge_derm.deploy.release import Options, Release, build
from edge_derm.deploy.session import Session, connect
from edge_derm.errors import EdgeDermError, TargetError
from edge_derm.measure import ssh

_PYTHONS = ((3, 10), (3, 13))
_LEAST_LIBC = (2, 27)
_MACHINES = ("aarch64", "x86_64")

Say = Callable[[str], None]


def deploy(
    bundle: Path,
    target: str,
    options: Options,
    *,
    root: str = "",
    trust: Path | None = None,
    keep: int = 3,
    wait_s: float = 60.0,
    measured: Path | None = None,
    dry_run: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Bring ``bundle`` to one board and return its record.

    Args:
        target: ``ssh://[user@]host[:port]``.
        root: where on the board; by default ``/opt/edge-derm`` (root or sudo), else ``~/.local/share/edge-derm``.
        trust: a public key that the board is to accept bundles of from now on; the bundle must be signed by it.
        keep: releases kept on the board.
        wait_s: how long a release may take to become healthy.
        measured: the record of ``bench`` of this model on such a board, for the check of the frame time before sending.

    Raises:
        TargetError: before anything is sent: of the connection, of the board (``board-…``), ``budget-latency``,
            ``budget-memory``; then ``upload-digest``, ``self-test``, ``not-healthy`` (the release before runs again).
            BundleError: the bundle must not be sent. DataError: ``budget-record``.
    """
    opened = open_bundle(bundle, trust=_keys(trust))
    with connect(ssh.parse(target), root=root, change=not dry_run) as session:
        check_board(session.board, target)
        say(
            f"{target}: {session.board['system']}, {session.board['machine']}, Python {_dotted(session.board['python'])}"
        )
        options = replace(options, trust=options.trust or session.board["trusts"])
        release = build(opened, session.board, options)
        sizes = release.sizes
        offsets: Mapping[str, int] = (
            {digest: 0 for digest in sizes} if dry_run else session.ask("missing", sizes)
        )
        missing_bytes = sum(sizes[digest] - offset for digest, offset in offsets.items())
        budget.check_room(session.board, missing_bytes, target)
        record = {
            "target": target,
            "release": release.record["id"],
            "dry_run": dry_run,
            "bytes_to_send": missing_bytes,
        }
        expected = budget.expect(release.record, session.board, measured)
        budget.check(expected, options, target)
        record |= {
            "expected": expected,
            "bytes_in_release": sum(sizes.values()),
            "files_to_send": len(offsets),
        }
        if dry_run:
            return record | {"previous": None, "healthy": None, "board": session.board}
        _trust(session, trust)
        return record | _install(session, release, offsets, target, keep=keep, wait_s=wait_s, say=say)


def _install(
    session: Session,
    release: Release,
    offsets: Mapping[str, int],
    target: str,
    *,
    keep: int,
    wait_s: float,
    say: Say,
) -> dict[str, Any]:
    for number, (digest, offset) in enumerate(sorted(offsets.items())):
        say(f"{target}: sending {number + 1} of {len(offsets)}")
        session.upload(digest, release.blobs[digest], offset=offset)
    name = release.record["id"]
    say(f"{target}: installing and testing {name}")
    session.ask("install", release.record)
    say(f"{target}: switching")
    if not session.ask("activate", name, wait_s):
        status = session.ask("status")
        raise TargetError(
            f"{target}: {name} was not healthy within {wait_s:g} s ({_reasons(status)}): rolled back to "
            f"{status['release'] or 'no release'}; see the service's log on the board",
            code="not-healthy",
        )
    session.ask("prune", keep)
    status = session.ask("status")
    return {
        "bytes_sent": session.sent_bytes,
        **{key: status[key] for key in ("previous", "healthy", "service")},
    }


def rollback(target: str, *, root: str = "", wait_s: float = 60.0) -> dict[str, Any]:
    """Let a board run the release before. Raises TargetError ``no-previous``, ``not-healthy``, of the connection."""
    with connect(ssh.parse(target), root=root) as session:
        if not session.ask("rollback", wait_s):
            raise TargetError(
                f"{target}: the release before was not healthy either: the newer one runs again",
                code="not-healthy",
            )
        return {"target": target, **session.ask("status")}


def status(target: str, *, root: str = "") -> dict[str, Any]:
    """What a board runs, and how it is."""
    with connect(ssh.parse(target), root=root) as session:
        return {"target": target, **session.ask("status"), "board": session.board}


def deploy_all(targets: Sequence[str], one: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Deploy to the first board alone; the others follow, four at a time, only if that one is healthy.

    Returns one record a board, in order; ``error`` holds a refusal's words, or that the board was left alone.
    """
    first = _guarded(targets[0], one)
    if "error" in first:
        left = "left alone: the first board failed"
        return [
            first,
            *({"target": target, "release": None, "healthy": None, "error": left} for target in targets[1:]),
        ]
    with ThreadPoolExecutor(4) as pool:
        return [first, *pool.map(lambda target: _guarded(target, one), targets[1:])]


def _guarded(target: str, one: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return one(target)
    except EdgeDermError as error:
        return {"target": target, "release": None, "healthy": False, "error": str(error), "code": error.code}


def check_board(board: Mapping[str, Any], target: str) -> None:
    """Refuse a board that cannot run a release. Raises TargetError ``board-machine``, ``board-python``, ``board-libc``."""
    if board["bits"] != 64 or board["machine"] not in _MACHINES:
        raise TargetError(
            f"{target}: expected a 64-bit system on aarch64 or x86_64, got {board['bits']} bits on {board['machine']}: install "
            "the 64-bit system (a 32-bit one has no LiteRT packages)",
            code="board-machine",
        )
    if not _PYTHONS[0] <= tuple(board["python"][:2]) <= _PYTHONS[1]:
        raise TargetError(
            f"{target}: expected Python 3.10 to 3.13 as python3, got {_dotted(board['python'])}: install a newer system",
            code="board-python",
        )
    name, version = board["libc"]
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < _LEAST_LIBC:
        raise TargetError(
            f"{target}: expected glibc {_dotted(_LEAST_LIBC)} or newer, got {name or 'another C library'} {version}: "
            "use Debian 12, Ubuntu 22.04 or newer",
            code="board-libc",
        )


def _keys(trust: Path | None) -> Mapping[str, Any] | None:
    from edge_derm.bundle.signature import load_keys

    return None if trust is None else load_keys([trust])


def _trust(session: Session, trust: Path | None) -> None:
    if trust is not None:
        data = trust.read_bytes()
        session.ask("trust", name=hashlib.sha256(data).hexdigest()[:16] + ".pub", data=data)


def _reasons(status: Mapping[str, Any]) -> str:
    failure = status.get("last_failure") or {}
    return str(failure.get("why") or "no reason given")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version[:2]))

"""Tiny releases for the agent: a wheel whose service answers its health endpoint and whose self-test says what it was told."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

CLI = """
import http.server, json, pathlib, sys

def main():
    words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    folder = pathlib.Path(words["--bundle"])
    if (folder / "broken").exists():
        sys.exit("edge-derm: broken on purpose")
    import hashlib
    digest = hashlib.sha256((folder / "model.tflite").read_bytes()).hexdigest()
    body = json.dumps({"healthy": True, "frames": 3, "model_sha256": digest}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", int(words["--port"])), Handler).serve_forever()
"""
SELF_TEST = """
import pathlib, sys
if (pathlib.Path(sys.argv[1]) / "unfit").exists():
    sys.exit("golden predictions differ")
"""


def wheel() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in (
            ("edge_derm/__init__.py", ""),
            ("edge_derm/cli.py", CLI),
            ("edge_derm/deploy/__init__.py", ""),
            ("edge_derm/deploy/selftest.py", SELF_TEST),
        ):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return stream.getvalue()


def release(
    name: str, port: int, *, service: bool = True, extra: str | None = None, made_s: int = 0
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(release.json, blobs) of a release whose model is its name."""
    bundle = {"model.tflite": name.encode(), **({extra: b""} if extra else {})}
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (wheel(), *bundle.values())}
    record = {
        "id": name,
        "made_s": made_s,
        "service": "camera" if service else None,
        "port": port,
        "system_site": False,
        "budget": {},
        "wheels": {"edge_derm.whl": hashlib.sha256(wheel()).hexdigest()},
        "bundle": {part: hashlib.sha256(data).hexdigest() for part, data in bundle.items()},
        "arguments": ["camera", "--bundle", f"@ROOT@/releases/{name}/bundle", "--port", str(port)],
        "unit": "",
        "source": "synthetic",
    }
    return record, blobs


def bring(board: Any, made: tuple[dict[str, Any], dict[str, bytes]], *, wait_s: float = 20.0) -> bool:
    """What the other side asks for in a deployment."""
    record, blobs = made
    for digest, offset in board.store.missing({digest: len(data) for digest, data in blobs.items()}).items():
        board.store.put(digest, offset, len(blobs[digest]), blobs[digest][offset:])
    board.install(record)
    stayed = board.activate(record["id"], wait_s)
    board.prune(3)
    return bool(stayed)


def main(root: str, name: str, port: str, kill_at: str) -> None:
    """Deploy ``name`` in this process, which is killed at its ``kill_at``-th change of the file system."""
    import os
    import signal

    from edge_derm.deploy.agent.board import Board
    from edge_derm.deploy.agent.service import Plain

    left = [int(kill_at)]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for call in (
        "replace",
        "rename",
        "symlink",
        "unlink",
        "link",
        "makedirs",
        "fsync",
        "kill",
        "posix_spawn",
    ):
        setattr(os, call, counted(getattr(os, call)))
    board = Board(root, Plain())
    board.tidy()
    assert bring(board, release(name, int(port), made_s=int(name.split("-")[1])))
    print(json.dumps({"left": left[0]}))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])

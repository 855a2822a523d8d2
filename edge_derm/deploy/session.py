"""One conversation with the agent on a board over one ssh connection."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import subprocess
import threading
import zlib
from pathlib import Path
from typing import Any, Callable, Iterator

from edge_derm.deploy import agent
from edge_derm.errors import TargetError
from edge_derm.measure import process, visit
from edge_derm.measure.ssh import Address

BLOCK = 1 << 18
_PYTHON = "python3 -c 'import base64, zlib; exec(zlib.decompress(base64.b64decode(\"{source}\")))' {root}"
# Without a root of their own to write to, ordinary users install for the whole machine where sudo asks nothing.
_START = (
    'if [ -z "{asked}" ] && [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; '
    "then exec sudo -n {python}; else exec {python}; fi"
)


class Session:
    """``ask`` the agent; opened by ``connect``."""

    def __init__(
        self, address: Address, client: subprocess.Popen[bytes], last_words: Callable[[], str]
    ) -> None:
        self._address, self._client, self._last_words = address, client, last_words
        self.sent_bytes = 0
        self.board: dict[str, Any] = self._answer(greeted=False)["value"]

    def ask(self, do: str, *arguments: Any, data: bytes = b"", **fields: Any) -> Any:
        """What the board answers to one request.

        Raises:
            TargetError: the board's own refusal, or why the connection ended.
        """
        head = json.dumps({"do": do, "arguments": arguments, "bytes": len(data), **fields}).encode()
        stream = self._client.stdin
        assert stream is not None
        try:
            stream.write(struct.pack(">I", len(head)) + head + data)
            stream.flush()
        except OSError:
            pass  # the answer, or its absence, says why
        self.sent_bytes += len(data)
        return self._answer(greeted=True).get("value")

    def upload(self, digest: str, blob: bytes | Path, *, offset: int) -> None:
        """Send one file from ``offset`` on."""
        data = blob if isinstance(blob, bytes) else blob.read_bytes()
        while True:
            block = data[offset : offset + BLOCK]
            self.ask("put", digest=digest, offset=offset, size=len(data), data=block)
            offset += len(block)
            if offset >= len(data):
                return

    def _answer(self, *, greeted: bool) -> dict[str, Any]:
        assert self._client.stdout is not None
        for line in self._client.stdout:
            if line.startswith(b"edge-derm: "):
                answer = json.loads(line[11:])
                if "error" in answer:
                    raise TargetError(f"{self._address}: {answer['words']}", code=answer["error"])
                return answer
        self._client.wait()
        raise visit.refused(self._address, self._client.returncode, self._last_words(), greeted=greeted)


@contextlib.contextmanager
def connect(address: Address, *, root: str = "", change: bool = True) -> Iterator[Session]:
    """A session; with ``change``, the board's lock is held and leftovers are settled.

    Raises:
        TargetError: those of ``visit.refused``; ``deploy-busy``, ``board-python``.
    """
    source = agent.source().encode()
    packed = base64.b64encode(zlib.compress(source, 9)).decode()
    words = _PYTHON.format(source=packed, root=base64.b64encode(root.encode()).decode() or "''")
    command = [*address.command(), _START.format(asked="x" if root else "", python=words)]
    with process.started(command, what=str(address)) as client:
        said: list[bytes] = []
        assert client.stderr is not None
        listener = threading.Thread(target=lambda: said.append(client.stderr.read()), daemon=True)  # type: ignore[union-attr]
        listener.start()

        def last_words() -> str:
            listener.join(10)  # the client has ended: what it said may still be on its way here
            return b"".join(said).decode("utf-8", "replace")

        session = Session(address, client, last_words)
        if change:
            session.ask("open", data=source)
        yield session
        assert client.stdin is not None
        client.stdin.close()
        client.wait(10)
        listener.join(5)

"""A sink that tells systemd the loop is alive (sd_notify(3)): READY at the first frame, WATCHDOG once a second after."""

from __future__ import annotations

import os
import socket
import time
from typing import Callable

from edge_derm.camera.frames import Frame
from edge_derm.camera.loop import Answer


class Notifier:
    """Quiet where no service manager listens; frames without an answer from the model are no sign of life."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last_s = clock, float("-inf")
        self._socket: socket.socket | None = None
        address = os.environ.get("NOTIFY_SOCKET", "")
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.connect(("\0" + address[1:]) if address[0] == "@" else address)

    def __call__(self, frame: Frame, answer: Answer) -> None:
        """Say so, at most once a second."""
        now_s = self._clock()
        if self._socket is None or answer.status == "unanswered" or now_s - self._last_s < 1.0:
            return
        self._socket.send(b"WATCHDOG=1" if self._last_s > float("-inf") else b"READY=1\nWATCHDOG=1")
        self._last_s = now_s

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

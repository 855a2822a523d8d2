"""Native libraries write to descriptor 2 behind Python's back; a user should not see their small talk."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from typing import Iterator

# "INFO: Created TensorFlow Lite XNNPACK delegate for CPU." and abseil's preamble; warnings and errors pass.
_SMALL_TALK = re.compile(rb"INFO: |I\d{4} |WARNING: All log messages before absl::InitializeLog")
_lock = threading.Lock()  # two redirections at once would restore each other's temporary file


@contextlib.contextmanager
def quiet_native(*, everything: bool = False) -> Iterator[None]:
    """Hold back what native code writes to stderr in this block; afterwards pass on all but small talk.

    ``everything``: pass on nothing, where errors reach the caller as exceptions and the rest is progress talk.

    The whole process's descriptor 2 is redirected for the duration, so keep the block short.
    """
    with _lock:
        try:
            saved = os.dup(2)
        except OSError:  # a daemon without stderr
            yield
            return
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(saved, 2)
                os.close(saved)
                held.seek(0)
                _pass_on(b"" if everything else held.read())


def _pass_on(text: bytes) -> None:
    kept = b"".join(line for line in text.splitlines(keepends=True) if not _SMALL_TALK.match(line))
    with contextlib.suppress(OSError):
        while kept:
            kept = kept[os.write(2, kept) :]

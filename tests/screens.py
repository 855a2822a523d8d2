"""A desktop without a monitor (Xvfb, openbox): what stands on it, and keys pressed on it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

WIDTH, HEIGHT = 1024, 768


class Screen:
    """``name`` is what DISPLAY takes."""

    def __init__(self, name: str, memory: Path) -> None:
        self.name, self._memory = name, memory
        self._x11, self._test = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXtst.so.6")
        self._x11.XOpenDisplay.restype = ctypes.c_void_p
        self._x11.XStringToKeysym.restype = ctypes.c_ulong
        self._display = ctypes.c_void_p(self._x11.XOpenDisplay(name.encode()))

    def pixels(self) -> np.ndarray:
        """uint8 BGR [768, 1024, 3]; the file is an XWD: a header in big-endian words, its colours, the rows."""
        data = self._memory.read_bytes()
        header = np.frombuffer(data, ">u4", 25)
        shown = np.frombuffer(data, np.uint8, HEIGHT * WIDTH * 4, int(header[0] + 12 * header[19]))
        return shown.reshape(HEIGHT, WIDTH, 4)[..., :3]

    def press(self, letter: str) -> None:
        """A key, on the window under the pointer."""
        symbol = ctypes.c_ulong(self._x11.XStringToKeysym(letter.encode()))
        key = self._x11.XKeysymToKeycode(self._display, symbol)
        self._test.XTestFakeMotionEvent(self._display, 0, WIDTH // 2, HEIGHT // 2, 0)
        for down in (1, 0):
            self._test.XTestFakeKeyEvent(self._display, key, down, 0)
        self._x11.XFlush(self._display)


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[Screen]:
    """A running desktop that keeps its screen's memory in ``folder``, or a skip."""
    for program in ("Xvfb", "openbox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    ours, theirs = os.pipe()
    size = ["-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-fbdir", str(folder)]
    command = ["Xvfb", "-displayfd", str(theirs), *size, "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[theirs], stderr=subprocess.DEVNULL) as server:
        os.close(theirs)
        try:
            with os.fdopen(ours) as said:
                number = said.readline().strip()
            assert number, "Xvfb did not start"
            # Without a window manager Qt's windows may stay black.
            desktop = {**os.environ, "DISPLAY": f":{number}"}
            with subprocess.Popen(
                ["openbox"], env=desktop, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as manager:
                try:
                    yield Screen(f":{number}", folder / "Xvfb_screen0")
                finally:
                    manager.terminate()
        finally:
            server.terminate()

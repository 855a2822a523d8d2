"""Keep XNNPACK off Intel's AMX, whose tiles of 16 × 64 are mostly empty in a network of few channels.

Where a processor has AMX, XNNPACK takes it for every int8 layer (LiteRT 2.3). Its other kernels give the same bytes; on our
network at 128 px they need 0.6 of the time at α = 0.25, about the same at 0.5, but 1.2 at 0.75 and 1.5 at 1. XNNPACK asks Linux
for AMX once in a process, while the first model is loaded, and goes without if Linux refuses. Linux refuses while a thread has an
alternate signal stack too small for a frame with tiles in it (``arch_prctl``, ``ARCH_REQ_XCOMP_PERM``;
Documentation/arch/x86/xstate.rst): so this thread gets one. ``EDGE_DERM_AMX=1`` leaves XNNPACK its choice.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from typing import Iterator

NARROW_BYTES = 1_500_000  # int8 files: 0.99 MB at α = 0.5, 2 MB at 0.75
STACK_BYTES = 10_240  # holds a signal's frame with AVX-512 registers (under 4 KB), not one with tiles (12 KB)
_AT_MINSIGSTKSZ = 51  # <linux/auxvec.h>: what the largest frame of this processor takes


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextlib.contextmanager
def without_tiles(model: bytes) -> Iterator[None]:
    """In this block Linux gives the process no AMX if ``model`` is of a narrow network; it keeps what it was given before."""
    wanted = len(model) > NARROW_BYTES or os.environ.get("EDGE_DERM_AMX") == "1"
    if wanted or not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.getauxval.restype = ctypes.c_ulong
    if libc.getauxval(ctypes.c_ulong(_AT_MINSIGSTKSZ)) <= STACK_BYTES:  # no AMX here
        yield
        return
    memory = ctypes.create_string_buffer(STACK_BYTES)
    small, before = _Stack(ctypes.addressof(memory), 0, STACK_BYTES), _Stack()
    replaced = libc.sigaltstack(ctypes.byref(small), ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if replaced:
            libc.sigaltstack(ctypes.byref(before), None)

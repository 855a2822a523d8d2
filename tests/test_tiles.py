"""AMX: not taken for our narrow networks, the same bytes either way, and nothing of the process is changed for good."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_derm.runtime import tiles

LINUX_X86 = sys.platform == "linux" and os.uname().machine == "x86_64"
SCRIPT = """
import ctypes, hashlib, sys
from pathlib import Path
import numpy as np
from edge_derm.runtime import Classifier
classifier = Classifier.of(Path(sys.argv[1]).read_bytes())
images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
granted = ctypes.c_ulong()
ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(granted))  # arch_prctl(ARCH_GET_XCOMP_PERM)
print(granted.value >> 18 & 1, hashlib.sha256(classifier.stored(images).tobytes()).hexdigest())
"""


def has_amx():
    return "amx_int8" in Path("/proc/cpuinfo").read_text()


def stack():
    found = tiles._Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address, found.flags, found.size


@pytest.mark.skipif(not LINUX_X86, reason="AMX is a matter of Linux on x86-64")
def test_a_model_loads_without_amx_unless_asked_and_scores_the_same_bytes(tiny_int8, tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny_int8)
    found = {}
    for wish in ("0", "1"):
        environment = {**os.environ, "EDGE_DERM_AMX": wish}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "m.tflite")]
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        found[wish] = said.split()
    assert found["0"][0] == "0" and found["1"][0] == str(int(has_amx()))
    assert found["0"][1] == found["1"][1]


def test_a_wide_network_is_left_to_xnnpack():
    before = stack()
    with tiles.without_tiles(bytes(tiles.NARROW_BYTES + 1)):
        assert stack() == before


def test_the_signal_stack_is_what_it_was_and_signals_arrive_meanwhile():
    """Ctrl-C while a model is loaded: the handler runs on the small stack."""
    before, seen = stack(), []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(stack()[2]))
    try:
        with tiles.without_tiles(b""):
            os.kill(os.getpid(), signal.SIGUSR1)
        assert len(seen) == 1 and stack() == before
        with pytest.raises(ZeroDivisionError), tiles.without_tiles(b""):
            raise ZeroDivisionError
        assert stack() == before
    finally:
        signal.signal(signal.SIGUSR1, old)

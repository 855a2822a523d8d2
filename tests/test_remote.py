"""The board's half of a visit run alone, and the boards' own tools that a record reads."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_derm.measure import remote
from edge_derm.measure.environment import environment
from processes import alive, wait_for


def order(**changes):
    """What the board's half is sent, as bytes."""
    whole = {
        "python": [3, 8],
        "wide": False,
        "modules": [],
        "files": [],
        "bytes": 0,
        "path": "x",
        "arguments": ["-c", "1"],
    }
    head = json.dumps({**whole, **changes}).encode()
    return struct.pack(">I", len(head)) + head


def board_half(folder, data, *, source=None, close=True):
    """Run the board's half alone; its last answer."""
    source = Path(remote.__file__).read_text() if source is None else source
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    process.stdin.write(data)
    process.stdin.flush()
    if close:
        process.stdin.close()
    said = process.stdout.read()
    process.wait(30)
    process.stdin.close()
    process.stdout.close()
    return [json.loads(line[11:]) for line in said.splitlines() if line.startswith(b"edge-derm: ")][-1]


def test_an_old_python_and_a_full_board_are_refused_before_anything_is_stored(tmp_path):
    assert board_half(tmp_path, order(python=[9, 0]))["error"] == "board-python"
    assert board_half(tmp_path, order(bytes=10**18))["error"] == "board-space"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 3, 20, -1])
def test_input_that_ends_early_leaves_nothing(tmp_path, cut):
    data = order(files=[["a", 10]], bytes=10) + b"12345"
    assert board_half(tmp_path, data[:cut]) == {"ready": True}
    assert list(tmp_path.iterdir()) == []


def test_a_heartbeat_that_stays_away_ends_the_program(tmp_path):
    """A cable pulled out: the input neither ends nor says anything."""
    source = Path(remote.__file__).read_text()
    assert "SILENCE_S = 30" in source
    mark = f"time.sleep(7{os.getpid()})"
    start = time.monotonic()
    data = order(arguments=["-c", f"import time; {mark}"])
    assert board_half(
        tmp_path, data, source=source.replace("SILENCE_S = 30", "SILENCE_S = 1"), close=False
    ) == {"ready": True}
    assert time.monotonic() - start < 20 and list(tmp_path.iterdir()) == []
    wait_for(lambda: not [line for line in alive(mark).values() if " -s -c " in line], 10)


def test_a_jetson_s_and_a_raspberry_pi_s_own_tools_are_read(tmp_path, monkeypatch):
    """Programs of the same names and output (documented by NVIDIA and Raspberry Pi); neither board is here."""
    line = "RAM 2134/7620MB (lfb 4x4MB) CPU [3%@1510] GR3D_FREQ 0% cpu@46.5C"
    for name, script in (
        ("tegrastats", f'while :; do echo "{line}"; sleep 0.1; done'),
        ("vcgencmd", '[ "$1" = get_throttled ] && echo throttled=0x50000'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = environment()
    assert found["tegrastats"] == line and found["throttled"] == "0x50000"
    shutil.rmtree(tmp_path)
    assert environment()["tegrastats"] is None

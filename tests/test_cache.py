"""Prepared things are whole, made by one process at a time, and a killed one's remains do not pile up."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from edge_derm.errors import TargetError
from edge_derm.measure import cache
from processes import wait_for

PARTS = ("disk", "key")


def make(folder, made, number=0):
    with cache.making(folder, PARTS) as fresh:
        if fresh is not None:
            time.sleep(0.2)
            for part in PARTS:
                (fresh / part).write_text(str(number))
            made.append(number)


def test_of_many_who_prepare_at_once_one_does(tmp_path):
    """A second one that replaced the first one's keys would lock out a board that is already running."""
    made = []
    threads = [threading.Thread(target=make, args=(tmp_path / "board", made, i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and (tmp_path / "board/key").read_text() == str(made[0])


def test_what_lacks_a_part_is_made_anew(tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board/key").touch()
    assert not cache.holds(tmp_path / "board", PARTS)
    make(tmp_path / "board", [])
    assert cache.holds(tmp_path / "board", PARTS)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    script = (
        "import pathlib, sys, time\nfrom edge_derm.measure import cache\n"
        "with cache.making(pathlib.Path(sys.argv[1]), ['x']) as fresh:\n    (fresh / 'half').touch()\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "board"]) as started:
        wait_for(lambda: list(tmp_path.glob(".board.*/half")))
        started.send_signal(signal.SIGKILL)
    assert not (tmp_path / "board").exists()
    other = tmp_path / ".board-of-another.x"
    other.mkdir()
    make(tmp_path / "board", [])
    assert sorted(os.listdir(tmp_path)) == sorted([".board-of-another.x", ".lock", "board"])


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), cache.making(tmp_path / "board", PARTS) as fresh:
        (fresh / "half").touch()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == [".lock"]


def test_too_little_room_is_said_before_anything_is_downloaded(tmp_path):
    """Else apt, tar or mke2fs says it in the middle, each in its own way."""
    with pytest.raises(TargetError, match="free bytes.*XDG_CACHE_HOME") as caught:
        with cache.making(tmp_path / "board", PARTS, room_bytes=10**18):
            raise AssertionError("it never ran")
    assert caught.value.code == "cache-space" and os.listdir(tmp_path) == [".lock"]

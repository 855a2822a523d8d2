"""Whole files or none."""

import os
from pathlib import Path

import pytest

from edge_derm import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(ZeroDivisionError), files.replace_file(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "b"
    for text in ("one", "two"):
        with files.replace_folder(target) as folder:
            (folder / "x").write_text(text)
    with pytest.raises(KeyboardInterrupt), files.replace_folder(target) as folder:
        (folder / "x").write_text("half")
        raise KeyboardInterrupt
    assert (target / "x").read_text() == "two" and os.listdir(tmp_path) == ["b"]


def test_devices_and_pipes_are_written_into_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_not_a_number_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_told_with_the_name_of_the_file():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'") as caught:
        files.write_text(Path("/dev/full"), "too much")
    assert caught.value.filename == "/dev/full"

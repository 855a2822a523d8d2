"""What the bridge writes is there whole or not at all, and nobody's files are replaced by surprise."""

from __future__ import annotations

import os

import pytest

from firmware_bridge.graph import BridgeError
from firmware_bridge.writing import replace_folder, write_file, write_folder


def test_a_folder_is_written_whole(tmp_path):
    write_folder(tmp_path / "out", {"a.c": "é\n", "sub/b": b"\x00"})
    assert (tmp_path / "out/a.c").read_bytes() == "é\n".encode()
    assert (tmp_path / "out/sub/b").read_bytes() == b"\x00"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    write_folder(tmp_path / "out", {"net.h": "old"})
    with pytest.raises(KeyboardInterrupt), replace_folder(tmp_path / "out", ours="net.h") as fresh:
        (fresh / "net.h").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "out/net.h").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_earlier_result_is_replaced_and_its_stale_files_go(tmp_path):
    write_folder(tmp_path / "out", {"net.h": "1", "stale.c": ""}, ours="net.h")
    write_folder(tmp_path / "out", {"net.h": "2"}, ours="net.h")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["net.h"]


def test_a_strangers_folder_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(BridgeError) as caught:
        write_folder(tmp_path, {"net.h": ""}, ours="net.h")
    assert caught.value.code == "folder-not-ours"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BridgeError):
        write_folder(tmp_path / "out", {"net.h": ""}, ours="net.h")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_is_replaced_or_kept(tmp_path):
    target = tmp_path / "deep/record.json"
    write_file(target, "{}")
    write_file(target, b"[]")
    assert target.read_text() == "[]" and os.listdir(target.parent) == ["record.json"]
    write_file(target.parent / "../../../../../../../../../../dev/null", "goes nowhere")

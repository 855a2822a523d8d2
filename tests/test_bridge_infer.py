"""firmware-bridge infer: an image goes in, the device's answer comes out, on a pipe and on an emulated board."""

from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from firmware_bridge import board, cli
from firmware_bridge.graph import BridgeError, LinkError
from firmware_bridge.inputs import make_lcg, read_input
from firmware_bridge.link import TensorInfo
from firmware_bridge.loopback import DEMO
from test_link_device import HASHING, emulated, expected

INT8 = TensorInfo("int8", (1, 16, 16, 3), 1 / 128, 0)

if board.missing_tools(board.find_board("host")):
    pytest.skip("no C compiler on this machine", allow_module_level=True)


def infer(*arguments: str, wrong: type[Exception] | None = None) -> dict:
    result = CliRunner().invoke(cli.cli, ["infer", *map(str, arguments), "--json", "-"])
    if wrong is not None:
        assert isinstance(result.exception, wrong), result.output
        return {"code": result.exception.code}
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.output)


@pytest.fixture
def colours(tmp_path):
    """Files of a red, a green and a blue image, with some noise."""
    paths = []
    for channel in range(3):
        image = np.random.default_rng(channel).integers(0, 60, (70, 90, 3), np.uint8)
        image[..., channel] += 150
        paths.append(tmp_path / f"{channel}.png")
        cv2.imwrite(str(paths[-1]), image[..., ::-1])
    return paths


def test_without_a_network_loop_tells_the_colour(colours, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    for channel, path in enumerate(colours):
        record = infer("--port", "loop://", path, "--labels", labels)
        assert (record["label_index"], record["label"]) == (channel, ["red", "green", "blue"][channel])
        assert record["output"][channel] == max(record["output"]) and record["retries"] == 0
        assert record["device_us"] >= 0 and record["abstained"] is None


def test_all_kinds_of_input_reach_the_device_byte_for_byte(tmp_path):
    stored = np.random.default_rng(0).integers(-128, 128, (1, 16, 16, 3)).astype(np.int8)
    np.save(tmp_path / "in.npy", stored)
    image = tmp_path / "in.png"
    cv2.imwrite(str(image), (stored[0].astype(int) + 128).astype(np.uint8)[..., ::-1])
    for given, data in [
        (tmp_path / "in.npy", stored.tobytes()),
        (image, stored.tobytes()),
        ("lcg:12345", make_lcg(12345, 768)),
    ]:
        record = infer("--port", "loop://", "--net", HASHING, given)
        assert bytes(record["output"]) == expected(data)


@pytest.mark.mcu
def test_an_emulated_board_answers_over_tcp(colours, tmp_path):
    with emulated("mps2-an505", tmp_path / "built", DEMO) as port:
        for channel, path in enumerate(colours):
            assert infer("--port", port, path)["label_index"] == channel


def test_a_device_with_another_model_or_other_labels_is_refused(colours, tmp_path):
    model, labels = tmp_path / "model.tflite", tmp_path / "labels.txt"
    model.write_bytes(b"another")
    labels.write_text("a\nb\n")
    common = ("--port", "loop://", colours[0])
    assert infer(*common, "--model", model, wrong=LinkError) == {"code": "other-model"}
    assert infer(*common, "--labels", labels, wrong=LinkError) == {"code": "labels-mismatch"}
    labels.write_text("\n".join("abcdefgh"))
    common = ("--port", "loop://", "--net", HASHING, "lcg:1")
    assert infer(*common, "--labels", labels, wrong=LinkError) == {"code": "labels-mismatch"}
    model.write_bytes(b"test")  # whose SHA-256 the hashing network bears
    assert hashlib.sha256(b"test").hexdigest() == infer(*common, "--model", model)["model_sha256"]


@pytest.mark.parametrize(
    "given, code",
    [
        ("no-such.png", "input-missing"),
        ("no-such.npy", "input-missing"),
        ("text.png", "input-broken"),
        ("text.npy", "input-broken"),
        ("empty.png", "input-broken"),
        ("float.npy", "input-mismatch"),
        ("short.npy", "input-mismatch"),
        ("lcg:", "input-mismatch"),
        ("lcg:-1", "input-mismatch"),
        ("lcg:4294967296", "input-mismatch"),
    ],
)
def test_an_input_that_is_none_is_named(tmp_path, monkeypatch, given, code):
    monkeypatch.chdir(tmp_path)
    for name in ("text.png", "text.npy"):
        (tmp_path / name).write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    np.save("float.npy", np.zeros((1, 16, 16, 3), np.float32))
    np.save("short.npy", np.zeros((1, 16, 16, 2), np.int8))
    with pytest.raises(BridgeError) as caught:
        read_input(given, INT8)
    assert caught.value.code == code and "\n" not in str(caught.value)


def test_a_network_folder_for_a_real_port_is_bad_usage(tmp_path):
    result = CliRunner().invoke(
        cli.cli, ["infer", "--port", "tcp://127.0.0.1:1", "--net", str(HASHING), "lcg:1"]
    )
    assert result.exit_code == 2 and "--net" in result.output

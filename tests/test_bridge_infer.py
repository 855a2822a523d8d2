"""firmware-bridge infer: an image goes in, the device's answer comes out, on a pipe and on an emulated board."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from firmware_bridge import board, cli
from firmware_bridge.graph import BridgeError, LinkError
from firmware_bridge.inputs import make_lcg, read_input
from firmware_bridge.link import TensorInfo
from firmware_bridge.loopback import DEMO
from hashing_device import HASHING, emulated, expected

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
    common = ("--port", "loop://", "--net", DEMO, colours[0])
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


def reference(model: bytes, stored: bytes) -> bytes:
    """What LiteRT's reference kernels make of the stored input."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given["index"], np.frombuffer(stored, given["dtype"]).reshape(given["shape"]))
    interpreter.invoke()
    return interpreter.get_tensor(made["index"]).tobytes()


@pytest.mark.parametrize("kind", ["tiny_int8", "tiny_uint8"])
def test_loop_serves_the_model_it_is_given(kind, request, tmp_path):
    """A photograph goes through the link into generated C: its output is LiteRT's for edge_derm's own pixels."""
    from edge_derm.data.preprocess import preprocess

    model = request.getfixturevalue(kind)
    path, image = tmp_path / "model.tflite", tmp_path / "lesion.png"
    path.write_bytes(model)
    pixels = np.random.default_rng(1).integers(0, 256, (75, 110, 3), np.uint8)
    cv2.imwrite(str(image), pixels[..., ::-1])
    record = infer("--port", "loop://", "--model", path, image)
    stored = preprocess(pixels, 32) ^ np.uint8(0x80 if kind == "tiny_int8" else 0)
    made = np.array(record["output"]).astype(np.int8 if kind == "tiny_int8" else np.uint8)
    assert made.tobytes() == reference(model, stored.tobytes())
    assert record["model_sha256"] == hashlib.sha256(model).hexdigest()
    assert record["label_index"] == int(np.argmax(made))


@pytest.mark.mcu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mps2-an386", "mps3-an547"])
def test_a_generated_folder_on_an_emulated_board_checks_itself_and_answers(name, tiny_int8, tmp_path):
    """generate → the link's main → QEMU's UART on TCP → infer: LiteRT's bytes, and time on the board's clock."""
    path, net = tmp_path / "model.tflite", tmp_path / "net"
    path.write_bytes(tiny_int8)
    made = CliRunner().invoke(cli.cli, ["generate", str(path), "--out", str(net)])
    assert made.exit_code == 0, made.exception
    with emulated(name, tmp_path / "built", net) as port:
        for seed in (1, 2):
            record = infer("--port", port, f"lcg:{seed}", "--model", path)
            assert np.array(record["output"]).astype(np.int8).tobytes() == reference(
                tiny_int8, make_lcg(seed, 3072)
            )
            assert record["self_check"] == "passed" and 100 < record["device_us"] < 20_000


def test_a_folder_without_a_network_is_named(tmp_path):
    assert infer("--port", "loop://", "--net", tmp_path, "lcg:1", wrong=LinkError) == {"code": "no-network"}


@pytest.mark.mcu
@pytest.mark.slow
def test_serve_puts_an_emulated_board_on_a_port_until_interrupted(tiny_int8, tmp_path):
    missing = board.missing_tools(board.find_board("mps2-an505"))
    if missing:
        pytest.skip(f"missing: {missing}")
    path = tmp_path / "model.tflite"
    path.write_bytes(tiny_int8)
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = str(free.getsockname()[1])
    script = "from firmware_bridge.cli import main; main()"
    command = [sys.executable, "-c", script, "serve", str(path), "--board", "mps2-an505", "--port", number]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stderr is not None and b"listens" in process.stderr.readline()
        deadline = time.monotonic() + 30
        while True:
            try:
                record = infer("--port", f"tcp://127.0.0.1:{number}", "lcg:3", "--timeout", "5")
                break
            except AssertionError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.2)
        made = np.array(record["output"]).astype(np.int8).tobytes()
        assert made == reference(tiny_int8, make_lcg(3, 3072)) and record["self_check"] == "passed"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130

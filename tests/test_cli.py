"""The command line: the contract's keys, and one clear line for every way to be wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_derm import cli
from edge_derm.cli.options import clean


def run(*arguments, cwd=None):
    command = [sys.executable, "-c", "from edge_derm.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def refused(done, *words, status=1):
    """One line on stderr, nothing on stdout, no traceback."""
    assert done.returncode == status, (done.stdout, done.stderr)
    assert (
        done.stdout == "" and done.stderr.count("\n") == 1 and done.stderr.startswith("edge-derm: ")
    ), done.stderr
    for word in words:
        assert word in done.stderr
    return True


@pytest.fixture
def pictures(tmp_path):
    """Class folders named like the tiny model's labels."""
    rng = np.random.default_rng(0)
    for label in ("akiec", "bcc", "mel", "nv"):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for i in range(6):
            cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return tmp_path / "images"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name):
    done = run(name, "-h")
    assert done.returncode == 0 and "Example:" in done.stdout and f"edge-derm {name}" in done.stdout


def test_bad_usage_is_2():
    assert run("train").returncode == 2
    assert run("nonsense").returncode == 2
    assert run("bench", "x", "--runs", "3").returncode == 2


def test_inspect_gives_the_contracts_keys(tiny_bundle):
    done = run("inspect", tiny_bundle, "--json", "-")
    record = json.loads(done.stdout)
    assert {"operators", "macs", "parameters", "size_bytes", "inputs", "outputs", "warnings"} <= set(record)
    assert record["dilated_depthwise"] == 1 and record["operators"]["DEPTHWISE_CONV_2D"] == 1
    bare = json.loads(run("inspect", tiny_bundle / "model.tflite", "--json", "-").stdout)
    assert bare["operators"] == record["operators"] and bare["manifest"] is None


def test_predict_gives_the_contracts_keys(tiny_bundle, pictures):
    chosen = [pictures / "mel" / "0.png", pictures / "nv" / "1.png"]
    records = json.loads(run("predict", tiny_bundle, *chosen, "--json", "-").stdout)
    assert [record["image"] for record in records] == [str(path) for path in chosen]
    for record in records:
        assert {
            "label",
            "probabilities",
            "entropy",
            "variance",
            "bhattacharyya",
            "prediction_set",
            "abstained",
        } <= set(record)
        assert abs(sum(record["probabilities"].values()) - 1) < 1e-5
        assert record["label"] == max(record["probabilities"], key=record["probabilities"].get)


def test_verify_against_a_bundle_and_its_gate(tiny_bundle, pictures, tmp_path):
    gate = tmp_path / "gate.toml"
    gate.write_text("min_agreement = 0.9\n")
    done = run(
        "verify", tiny_bundle, "--data", pictures, "--against", tiny_bundle, "--gate", gate, "--json", "-"
    )
    record = json.loads(done.stdout)
    assert (
        done.returncode == 0
        and record["passed"] is True
        and record["part"] == "all"
        and record["images"] == 24
    )
    assert record["agreement"]["xnnpack"] == 1.0 and record["accuracy_float"] == record["accuracy_deployed"]
    alone = json.loads(run("verify", tiny_bundle, "--data", pictures, "--json", "-").stdout)
    assert alone["accuracy_float"] is None and alone["agreement"] == {"xnnpack": None, "reference": None}
    gate.write_text("min_accuracy = 1.01\n")
    failed = run("verify", tiny_bundle, "--data", pictures, "--gate", gate)
    assert (
        failed.returncode == 1
        and "gate failed: min_accuracy" in failed.stderr
        and failed.stderr.count("\n") == 1
    )


def test_evaluate_gives_figures_with_intervals(tiny_bundle, pictures):
    record = json.loads(
        run(
            "evaluate",
            tiny_bundle,
            "--data",
            pictures,
            "--positive",
            "mel",
            "--negative",
            "nv",
            "--json",
            "-",
        ).stdout
    )
    for key in ("accuracy", "balanced_accuracy", "ece", "brier"):
        assert {"value", "low", "high", "n"} <= set(record[key])
    assert (
        set(record["auroc"]) == {"akiec", "bcc", "mel", "nv"}
        and record["operating_points"]
        and record["readers"] is None
    )


def test_adopt_then_everything_works(tiny_uint8, pictures, tmp_path):
    (tmp_path / "theirs.tflite").write_bytes(tiny_uint8)
    (tmp_path / "labels.txt").write_text("akiec\nbcc\nmel\nnv\n")
    done = run(
        "adopt",
        tmp_path / "theirs.tflite",
        "--labels",
        tmp_path / "labels.txt",
        "--out",
        tmp_path / "b.bundle",
        "--json",
        "-",
    )
    record = json.loads(done.stdout)
    assert {"operators", "size_bytes", "inputs", "outputs"} <= set(record) and record["inputs"][0][
        "dtype"
    ] == "uint8"
    assert run("predict", tmp_path / "b.bundle", pictures / "mel" / "0.png").returncode == 0
    assert run("verify", tmp_path / "b.bundle", "--data", pictures).returncode == 0
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    refused(
        run(
            "adopt",
            tmp_path / "theirs.tflite",
            "--labels",
            tmp_path / "labels.txt",
            "--out",
            tmp_path / "c.bundle",
        ),
        "4",
    )
    assert not (tmp_path / "c.bundle").exists()


def test_report_takes_records_bundles_and_escapes(tiny_bundle, tmp_path):
    (tmp_path / "odd.json").write_text(json.dumps({"record": "new<script>", "value": "<b>x</b>"}))
    done = run("report", tiny_bundle, tmp_path / "odd.json", "--out", tmp_path / "r.html", "--json", "-")
    assert json.loads(done.stdout)["report"] == str(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "DEPTHWISE_CONV_2D" in text and "<b>x</b>" not in text and "new&lt;script&gt;" in text


def test_missing_and_wrong_things_get_one_clear_line(tiny_bundle, pictures, tmp_path):
    absent, empty, text = tmp_path / "absent", tmp_path / "empty", tmp_path / "text.png"
    empty.mkdir()
    text.write_text("not an image")
    assert refused(run("inspect", absent), "absent")
    assert refused(run("inspect", text), "text.png")
    assert refused(run("predict", absent, text), "absent")
    assert refused(run("predict", tiny_bundle, text), "text.png", "expected")
    assert refused(run("predict", tiny_bundle, absent), "no such file")
    assert refused(run("verify", tiny_bundle, "--data", empty), "empty", "no usable image")
    assert refused(run("verify", tiny_bundle, "--data", absent), "absent")
    assert refused(run("verify", tiny_bundle, "--data", pictures, "--gate", absent), "TOML")
    assert refused(
        run("verify", tiny_bundle, "--data", pictures, "--part", "train"), "not trained on these data"
    )
    assert refused(run("evaluate", tiny_bundle, "--data", "synthetic:16"), "keratosis")
    assert refused(run("evaluate", tiny_bundle, "--data", pictures, "--positive", "cat"), "cat")
    assert refused(run("bench", absent), "absent")
    assert refused(run("report", text, "--out", tmp_path / "r.html"), "text.png")
    assert not (tmp_path / "r.html").exists()


def test_what_is_left_out_of_the_data_is_told(tiny_bundle, pictures):
    (pictures / "mel" / "bad.jpg").write_bytes(b"nothing")
    (pictures / "spare").mkdir()
    done = run("verify", tiny_bundle, "--data", pictures)
    assert done.returncode == 0 and "24 images" in done.stdout
    assert "image-broken: 1 (mel/bad.jpg)" in done.stderr and "class-empty: 1 (spare)" in done.stderr


def test_a_damaged_bundle_is_refused_by_every_command(tiny_bundle, pictures, tmp_path):
    model = tiny_bundle / "model.tflite"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(bytes(data))
    for arguments in (
        ["inspect", tiny_bundle],
        ["predict", tiny_bundle, pictures / "mel" / "0.png"],
        ["bench", tiny_bundle],
        ["verify", tiny_bundle, "--data", pictures],
        ["evaluate", tiny_bundle, "--data", pictures],
        ["report", tiny_bundle, "--out", tmp_path / "r.html"],
    ):
        assert refused(run(*arguments), "model.tflite")


def test_an_unwritable_place_gets_one_line_and_leaves_nothing(tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert refused(run("report", tiny_bundle, "--out", tmp_path / "file" / "r.html"), "file")
    assert os.listdir(tmp_path / "..") is not None and (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_gets_one_line(tiny_bundle):
    done = run("inspect", tiny_bundle, "--json", "/dev/full")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left" in done.stderr
    assert Path("/dev/full").is_char_device()  # written into, not replaced


@pytest.mark.slow
def test_ctrl_c_leaves_one_line_and_a_run_that_goes_on(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from edge_derm.cli import main; main()",
        "train",
        "--data",
        "synthetic:400",
        "--size",
        "32",
        "--epochs",
        "300",
        "--out",
        str(tmp_path / "run"),
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130 and err.strip().count("\n") == 0 and "interrupted" in err
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint.npz"]


@pytest.mark.slow
def test_the_main_line_end_to_end(tmp_path):
    """demo, small: every record, the report, and the contract's keys."""
    done = run("demo", "--images", 320, "--epochs", 4, "--out", tmp_path / "demo", "--json", "-")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {"bundle", "report", "accuracy_float", "accuracy_int8", "latency_ms"} <= set(record)
    assert record["latency_ms"]["p50"] > 0 and record["agreement"]["reference"] is not None
    page = (tmp_path / "demo" / "report.html").read_text()
    for word in (
        "Confusion matrix",
        "Not a medical device",
        "data:image/png;base64",
        "DEPTHWISE_CONV_2D",
        "p95",
    ):
        assert word in page
    assert "http://" not in page and "https://" not in page
    shown = json.loads(run("inspect", record["bundle"], "--json", "-").stdout)
    assert shown["dilated_depthwise"] == 1 and not {"SPACE_TO_BATCH_ND", "MUL"} & set(shown["operators"])
    # Judged on its own data without --part, a model is judged on what it was not trained on.
    verified = json.loads(run("verify", record["bundle"], "--data", "synthetic:320", "--json", "-").stdout)
    assert verified["part"] == "validation" and verified["images"] < 60
    exported = run(
        "export",
        tmp_path / "demo" / "run",
        "--recipe",
        "int8",
        "--io",
        "uint8",
        "--out",
        tmp_path / "u.bundle",
        "--json",
        "-",
    )
    assert {"recipe", "size_bytes", "operators", "dilated_depthwise", "fused"} <= set(
        json.loads(exported.stdout)
    )


@pytest.mark.slow
def test_what_is_held_out_is_what_a_model_is_judged_on(tmp_path):
    trained = run(
        "train",
        "--data",
        "synthetic:120",
        "--size",
        "32",
        "--epochs",
        "2",
        "--hold-out",
        "0.3",
        "--out",
        tmp_path / "run",
        "--json",
        "-",
    )
    parts = json.loads(trained.stdout)["data"]["parts"]
    assert (
        set(parts) == {"train", "validation", "test"}
        and sum(parts.values()) == 120
        and 28 <= parts["test"] <= 44
    )
    assert run("export", tmp_path / "run", "--out", tmp_path / "b").returncode == 0
    judged = json.loads(run("evaluate", tmp_path / "b", "--data", "synthetic:120", "--json", "-").stdout)
    assert judged["part"] == "test" and judged["images"] == parts["test"]
    chosen = json.loads(
        run(
            "evaluate", tmp_path / "b", "--data", "synthetic:120", "--part", "validation", "--json", "-"
        ).stdout
    )
    assert chosen["images"] == parts["validation"]


def test_json_has_no_not_a_number():
    assert clean({"a": np.float32("nan"), "b": [np.int64(3)], "c": np.array([1.5]), 4: None}) == {
        "a": None,
        "b": [3],
        "c": [1.5],
        "4": None,
    }

"""The decision made on the device in integers is the one that edge_derm makes in floating point."""

from __future__ import annotations

import json
import math
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_derm.runtime import decision as floating
from edge_derm.trust import scaling
from firmware_bridge import board, cli
from firmware_bridge.decision import MARGIN, Decision, Tables, digest_labels, make_tables, read_manifest
from firmware_bridge.graph import BridgeError, Quantization, Tensor

HERE = Path(__file__).parent

if board.missing_tools(board.find_board("host")):
    pytest.skip("no C compiler on this machine", allow_module_level=True)


def scores_of(classes: int, dtype: str = "int8", scale: float = 1 / 256, zero: int | None = None) -> Tensor:
    zero = (-128 if dtype == "int8" else 0) if zero is None else zero
    quantization = Quantization(np.array([scale], np.float32), np.array([zero], np.int64))
    return Tensor(0, "scores", (1, classes), dtype, quantization)


@pytest.fixture(scope="module")
def decide(tmp_path_factory):
    """ed_decide.c under the sanitizers: tables and rows of stored scores → (decision, confidence) of each row."""
    sources = [HERE / "decide_many.c", board.FIRMWARE / "ed_decide.c"]
    folder = tmp_path_factory.mktemp("decide")
    made = board.build(
        sources, board.find_board("host"), out=folder, include=[board.FIRMWARE], extra=board.SANITIZE
    )

    def run(tables: Tables, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        row = 256 if len(tables.logits) > 1 else 0
        weights = np.zeros(0) if tables.weights is None else tables.weights
        sizes = tables.logits.size, weights.size
        head = struct.pack("<5iQ", tables.classes, row, tables.flip, *sizes, tables.limit)
        constants = tables.logits.astype("<i4").tobytes() + weights.astype("<i4").tobytes()
        given = head + constants + stored.tobytes()
        done = subprocess.run([made.executable], input=given, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        answers = np.frombuffer(done.stdout, "<i4").reshape(-1, 2)
        return answers[:, 0], answers[:, 1] / 65536

    return run


def expect(decision: Decision, output: Tensor, stored: np.ndarray) -> np.ndarray:
    """Probabilities by edge_derm's own function, float64 where it allows."""
    assert output.quantization is not None
    step = float(output.quantization.scale[0])
    raw = (stored.astype(np.float64) - int(output.quantization.zero_point[0])) * step
    return floating.probabilities(
        raw.astype(np.float32),
        activation=decision.activation,
        temperature=decision.temperature,
        scale=decision.scale,
        shift=decision.shift,
        floor=step / 2,
    )


def compare(decide, decision: Decision, output: Tensor, stored: np.ndarray) -> int:
    """Assert equal decisions outside the stated margin; return how many rows lay inside it."""
    got, confidence = decide(make_tables(decision, output), stored)
    p = expect(decision, output, stored).astype(np.float64)
    first = floating.named(p, decision.weights)
    sure = floating.confidences(p, first)
    threshold = decision.abstain_threshold or 0.0
    near = np.abs(sure - threshold) <= MARGIN * threshold
    tied = undecided(p, decision)
    expected = np.where(sure < threshold, -1, first)
    wrong = (got != expected) & ~near & ~tied
    assert not wrong.any(), (stored[wrong][:3], got[wrong][:3], expected[wrong][:3], p[wrong][:3])
    assert np.abs(confidence - sure)[~tied].max(initial=0) <= 1 / 65536
    return int((near | tied).sum())


def undecided(p: np.ndarray, decision: Decision) -> np.ndarray:
    """Rows where rounding may decide which class is named, bool [N]: every such row is counted by the callers."""
    values = p * np.array(decision.weights or 1.0)
    below = 1 - values / values.max(axis=1, keepdims=True)  # how far below the largest, relatively
    if decision.weights is not None:  # equal within TIE is a tie on both sides; only its edge is open
        return (np.abs(below - floating.TIE) <= 3e-6).any(axis=1)
    second = np.sort(below, axis=1)[:, 1]
    vector = (
        decision.scale is not None or decision.shift is not None
    )  # equal scores are a tie only without it
    return (second <= 1.5e-6) & (vector | (second > 0))


def every_pair(dtype: str = "int8") -> np.ndarray:
    values = np.arange(256, dtype=np.int64) + np.iinfo(dtype).min
    return np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2).astype(dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    "chosen",
    [
        Decision(),
        Decision(abstain_threshold=0.6),
        Decision(temperature=1.37, abstain_threshold=0.7),
        Decision(temperature=0.31, abstain_threshold=0.999),
        Decision(temperature=2.5, abstain_threshold=0.55, scale=(1.2, 0.7), shift=(0.1, -0.4)),
        Decision(shift=(0.0, 1.5), abstain_threshold=1.0),
        Decision(activation="logits", temperature=1.8, abstain_threshold=0.8),
        Decision(temperature=0.9, shift=(-1.8, 2.8), weights=(1.0, math.exp(-4.6)), abstain_threshold=0.3),
        Decision(weights=(0.2, 5.0), abstain_threshold=0.1),
        Decision(
            activation="logits", shift=(0.0, 30.0), weights=(1.0, math.exp(-30)), abstain_threshold=1e-4
        ),
    ],
)
def test_every_pair_of_scores_is_decided_alike(decide, dtype, chosen):
    """All 65,536 rows of a two-class model."""
    output = scores_of(2, dtype, scale=0.05 if chosen.activation == "logits" else 1 / 256, zero=None)
    assert compare(decide, chosen, output, every_pair(dtype)) < 1000


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_calibration_of_any_number_of_classes_is_decided_alike(decide, data):
    classes = data.draw(st.sampled_from([2, 3, 7, 12, 100, 1000]))
    activation = data.draw(st.sampled_from(["softmax", "softmax", "logits"]))
    dtype = data.draw(st.sampled_from(["int8", "uint8"]))
    weights = st.none() | st.lists(st.floats(1e-6, 1e3), min_size=classes, max_size=classes).map(tuple)
    vectors = st.none() | st.lists(st.floats(-3, 3), min_size=classes, max_size=classes).map(tuple)
    chosen = Decision(
        temperature=data.draw(st.none() | st.floats(1.0 if activation == "logits" else 0.1, 20)),
        abstain_threshold=data.draw(st.none() | st.floats(0, 1)),
        scale=data.draw(vectors) if classes <= 12 else None,
        shift=data.draw(vectors) if classes <= 12 else None,
        activation=activation,
        weights=data.draw(weights) if classes <= 12 else None,
    )
    scale, zero = (
        (data.draw(st.floats(0.001, 0.3)), data.draw(st.integers(-128, 127)))
        if activation == "logits"
        else (1 / 256, -128)
    )
    output = scores_of(classes, dtype, scale, zero + (128 if dtype == "uint8" else 0))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    limits = np.iinfo(dtype)
    peaks = rng.integers(0, 256, (400, 1)) * rng.random((400, classes)) ** rng.integers(1, 9, (400, 1))
    compare(decide, chosen, output, (limits.min + peaks).astype(dtype))


def test_rows_of_nothing_but_zero_probability_are_uniform(decide):
    """Many classes at eight bits: every probability may round to zero, which says nothing."""
    stored = np.full((1, 300), -128, np.int8)
    got, confidence = decide(make_tables(Decision(abstain_threshold=0.01), scores_of(300)), stored)
    assert got.tolist() == [-1] and abs(confidence[0] - 1 / 300) < 1e-5
    assert decide(make_tables(Decision(abstain_threshold=0.003), scores_of(300)), stored)[0].tolist() == [0]


def test_ties_go_to_the_earlier_class(decide):
    stored = np.array([[5, 90, 90, 90], [90, 5, 5, 90], [-128, -128, -128, -128]], np.int8)
    for chosen in (Decision(), Decision(temperature=1.7)):
        assert decide(make_tables(chosen, scores_of(4)), stored)[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.31, 19.0])
def test_weights_that_undo_the_shift_name_the_networks_own_answer(decide, temperature):
    """Every pair, ties included: whatever the class frequencies do to the probabilities, the name stays."""
    shift = (-1.97, 3.06)
    weights = scaling.Scaling(temperature, None, shift).weights
    chosen = Decision(temperature, shift=shift, weights=weights)
    stored = every_pair()
    own = stored.astype(int).argmax(axis=1)
    p = expect(chosen, scores_of(2), stored)
    assert (p.argmax(axis=1) != own).mean() > 0.1
    heard = np.maximum(
        stored.astype(int) + 128, 0.5
    )  # of a score of 0, half a step: what its logarithm is taken of
    assert (floating.named(p, weights) == heard.argmax(axis=1)).all()
    assert (decide(make_tables(chosen, scores_of(2)), stored)[0] == own).all()


def test_thresholds_at_the_ends(decide):
    stored = every_pair()
    assert (decide(make_tables(Decision(abstain_threshold=0.0), scores_of(2)), stored)[0] >= 0).all()
    certain = decide(make_tables(Decision(abstain_threshold=1.0), scores_of(2)), stored)[0]
    assert ((certain >= 0) == (((stored == -128).sum(axis=1) == 1))).all()


@pytest.mark.parametrize(
    "chosen",
    [
        Decision(temperature=0.0),
        Decision(temperature=float("nan")),
        Decision(temperature=1e-4),
        Decision(abstain_threshold=1.1),
        Decision(abstain_threshold=-0.1),
        Decision(scale=(1.0,)),
        Decision(shift=(1.0, float("inf"))),
        Decision(activation="sigmoid"),
        Decision(weights=(1.0,)),
        Decision(weights=(1.0, 0.0)),
        Decision(weights=(1e-300, 1e300)),
    ],
)
def test_a_figure_out_of_range_is_named(chosen):
    with pytest.raises(BridgeError, match="decision: expected") as caught:
        make_tables(chosen, scores_of(2))
    assert caught.value.code == "decision-value"


def test_an_output_that_is_no_row_of_scores_is_named():
    for output in (scores_of(1), Tensor(0, "x", (1, 2), "float32"), Tensor(0, "x", (1, 2), "int8")):
        with pytest.raises(BridgeError) as caught:
            make_tables(Decision(), output)
        assert caught.value.code == "decision-output"


def test_a_bundles_manifest_gives_decision_and_labels(tiny_bundle):
    from edge_derm.bundle.manifest import Calibration
    from edge_derm.bundle.store import open_bundle

    manifest = open_bundle(tiny_bundle).manifest.updated(
        temperature=1.4,
        abstain_threshold=0.6,
        calibration=Calibration(shift=(0.1, 0.2, 0.3, 0.4), weights=(1.0, 0.5, 0.5, 0.25)),
    )
    stored = json.loads((tiny_bundle / "manifest.json").read_text())
    stored |= {
        "temperature": 1.4,
        "abstain_threshold": 0.6,
        "calibration": {"scale": None, "shift": [0.1, 0.2, 0.3, 0.4], "weights": [1.0, 0.5, 0.5, 0.25]},
    }
    decision, labels = read_manifest(stored, "manifest.json")
    assert manifest.calibration is not None and decision.shift == manifest.calibration.shift
    assert (decision.temperature, decision.abstain_threshold) == (1.4, 0.6)
    assert decision.weights == manifest.calibration.weights
    assert decision.scale is None and decision.activation == manifest.output.activation
    assert labels == manifest.labels and len(digest_labels(labels)) == 64
    for broken in (
        [],
        {},
        None,
        stored | {"labels": None},
        stored | {"temperature": "warm"},
        stored | {"output": {}},
    ):
        with pytest.raises(BridgeError) as caught:
            read_manifest(broken, "manifest.json")
        assert caught.value.code == "manifest"


@pytest.mark.slow
@pytest.mark.parametrize(
    "temperature, shift", [(1.7, None), (0.6, None), (0.8, (2.0, -1.0, 0.5, -1.5))], ids=str
)
def test_a_bundles_decision_is_the_one_its_generated_device_makes(
    tiny_bundle, tiny_images, tmp_path, temperature, shift
):
    """update_bundle → generate --manifest → compiled, over the link: label and abstention are the Classifier's."""
    from edge_derm.bundle import Calibration, open_bundle, update_bundle
    from edge_derm.runtime import Classifier
    from firmware_bridge.device import Device, Patience
    from firmware_bridge.loopback import loopback
    from firmware_bridge.pixels import encode_image

    scaled = scaling.Scaling(temperature, None, shift)
    fitted = None if shift is None else Calibration(shift=shift, weights=scaled.weights)
    update_bundle(open_bundle(tiny_bundle), temperature=temperature, calibration=fitted)
    given = Classifier.open(tiny_bundle, kernels="reference").classify(list(tiny_images))
    threshold = float(np.median([one.confidence for one in given]))  # half of them abstain
    update_bundle(open_bundle(tiny_bundle), abstain_threshold=threshold)
    arguments = ["generate", tiny_bundle / "model.tflite", "--manifest", tiny_bundle / "manifest.json"]
    made = CliRunner().invoke(cli.cli, [*map(str, arguments), "--out", str(tmp_path / "net")])
    assert made.exit_code == 0, made.exception
    classifier = Classifier.open(tiny_bundle, kernels="reference")  # the device has their bytes
    expected = classifier.classify(list(tiny_images))
    with loopback(tmp_path / "net", extra=board.SANITIZE) as line:
        device = Device(line, patience=Patience(timeout_s=10))
        info = device.describe()
        assert info.decides and info.labels_sha256 == digest_labels(classifier.labels)
        answers = [device.infer(encode_image(image, info.input)) for image in tiny_images]
    for answer, prediction in zip(answers, expected, strict=True):
        assert answer.decision is not None
        assert (answer.decision < 0) == prediction.abstained
        assert answer.decision < 0 or classifier.labels[answer.decision] == prediction.label
    assert {answer.decision < 0 for answer in answers if answer.decision is not None} == {True, False}


def test_figures_on_the_command_line_go_over_the_manifests(tiny_bundle, tmp_path):
    arguments = ["generate", tiny_bundle / "model.tflite", "--manifest", tiny_bundle / "manifest.json"]
    arguments += ["--temperature", "2.5", "--abstain", "0.7", "--json", "-", "--out", tmp_path / "net"]
    record = json.loads(CliRunner().invoke(cli.cli, list(map(str, arguments))).output)
    assert (record["decision"]["temperature"], record["decision"]["abstain_threshold"]) == (2.5, 0.7)
    readme = (tmp_path / "net" / "README.md").read_text()
    assert "temperature 2.5, threshold 0.7" in readme and "net_decide.c" in record["files"]

"""A bundle trained with attention does all that an ordinary one does, shows its mask, and is exact in generated C."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("keras", reason="Keras is not installed")

from edge_derm import inspecting, making, using  # noqa: E402
from edge_derm.bundle import open_bundle  # noqa: E402
from edge_derm.bundle.cut import mask_shape  # noqa: E402
from edge_derm.camera.worker import Worker  # noqa: E402
from edge_derm.data import open_dataset  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import attention as module  # noqa: E402
from edge_derm.modeling import runs  # noqa: E402
from edge_derm.runtime import Classifier, attention  # noqa: E402
from firmware_bridge import board  # noqa: E402
from firmware_bridge.network import read_network  # noqa: E402
from firmware_bridge.running import check_network  # noqa: E402
from test_audit import edge_derm  # noqa: E402
from test_codegen import random_inputs  # noqa: E402

DATA, SIZE_PX = "synthetic:96", 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, its kernels shaken so that masks differ by place, and its bundle."""
    folder = tmp_path_factory.mktemp("attention")
    record = making.train(DATA, folder / "run", size_px=SIZE_PX, epochs=2, attention=True)
    model, _ = runs.load(folder / "run")
    gate, rng = model.get_layer(module.NAME), np.random.default_rng(0)
    gate.set_weights([w + rng.normal(0, 0.3, w.shape) for w in gate.get_weights()])
    runs.save(folder / "run", model, record)
    making.export(folder / "run", folder / "a.bundle", recipe="int8")
    return folder / "run", folder / "a.bundle"


@pytest.fixture(scope="module")
def pixels():
    return open_dataset("synthetic:24", seed=3).images(SIZE_PX)


@pytest.mark.slow
def test_the_run_says_that_it_has_attention(trained):
    record = json.loads((trained[0] / "run.json").read_text())
    assert record["attention"] is True
    assert record["macs"] == inspecting.inspect(trained[1])["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_the_deployed_mask_is_that_of_the_float_model(trained, pixels, kernels):
    bundle = open_bundle(trained[1])
    deployed = attention.Masks(bundle, kernels=kernels).of(pixels)
    parent = module.masks(runs.load(trained[0])[0], pixels)
    assert deployed.shape == parent.shape == (24, 2, 2)
    assert np.abs(deployed - parent).max() < 0.15 and np.abs(deployed - parent).mean() < 0.03
    assert parent.std() > 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--data", DATA, "--against", "RUN"),
        ("evaluate", "--data", DATA),
        ("uncertainty", "--data", DATA, "--mc", "4"),
        (
            "audit",
            "--data",
            DATA,
            "--against",
            "RUN",
            "--passes",
            "1",
            "--draws",
            "2",
            "--zeta",
            "0.2",
            "--norm",
            "2",
        ),
        ("bench", "--runs", "50", "--profile"),
        ("calibrate", "--data", DATA),
        ("inspect",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_takes_it(trained, tmp_path, arguments):
    command, *rest = [str(trained[0]) if word == "RUN" else word for word in arguments]
    out = tmp_path / "record.json"
    status, _, err = edge_derm(command, trained[1], *rest, "--json", out)
    assert status == 0, err
    record = json.loads(out.read_text())
    if command == "verify":
        assert min(record["agreement"].values()) >= 0.8
    if command == "bench":
        assert {"LOGISTIC", "MUL"} <= set(record["operators"])


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--mc", "4"), ("--tta", "8"), ()], ids=lambda o: " ".join(o) or "plain")
def test_predict_draws_where_it_looked(trained, tmp_path, options):
    image = open_dataset("synthetic:8").read(0)
    cv2.imwrite(str(tmp_path / "lesion.png"), image[..., ::-1])
    status, out, err = edge_derm(
        "predict",
        trained[1],
        tmp_path / "lesion.png",
        *options,
        "--mask",
        tmp_path / "masks",
        "--json",
        "-",
    )
    assert status == 0, err
    told = json.loads(out)[0]["mask"]
    assert 0 <= told["least"] <= told["mean"] <= told["most"] <= 1
    assert cv2.imread(told["file"]).shape == (using.MASK_PICTURE_PX, using.MASK_PICTURE_PX, 3)


@pytest.mark.slow
def test_the_camera_gets_probabilities_and_mask_of_a_frame(trained, pixels):
    bundle = open_bundle(trained[1])
    classes = len(bundle.manifest.labels)
    worker = Worker(bundle.path, classes, mask_shape=mask_shape(bundle.model), deadline_s=30)
    try:
        assert worker.wait(), worker.trouble
        found = worker.infer(pixels[0])
        assert found is not None and worker.mask is not None
        assert np.array_equal(found[0], Classifier.open(bundle).predict(pixels[:1])[0])
        assert np.array_equal(worker.mask, attention.Masks(bundle).of(pixels[:1])[0])
    finally:
        worker.close()


@pytest.mark.slow
def test_generated_c_is_exact_on_every_tensor(trained):
    network = read_network(open_bundle(trained[1]).model)
    _, compared = check_network(network, "host", random_inputs(network, 20), extra=board.SANITIZE)
    assert compared.exact, compared.wrong


@pytest.mark.slow
@pytest.mark.mcu
@pytest.mark.parametrize("name", [name for name, place in board.BOARDS.items() if place.emulated])
def test_generated_c_is_exact_on_every_board(trained, name):
    network = read_network(open_bundle(trained[1]).model)
    _, compared = check_network(network, name, random_inputs(network, 1))
    assert compared.exact, compared.wrong


def test_a_bundle_without_attention_says_how_to_get_a_mask(tiny_bundle):
    with pytest.raises(ModelError) as caught:
        attention.Masks(open_bundle(tiny_bundle))
    assert caught.value.code == "attention-missing" and "--attention" in str(caught.value)


def test_a_collapsed_mask_is_told_from_one_that_looks():
    rng = np.random.default_rng(0)
    spots = np.clip(rng.normal(0.5, 0.2, (30, 4, 4)), 0, 1)
    flat, same = np.full((30, 4, 4), 0.6), np.repeat(spots[:1], 30, axis=0)
    stuck = (spots > 0.5).astype(float)
    found = [attention.collapse(m) for m in (spots, flat, same, stuck)]
    assert [f["collapsed"] for f in found] == [False, True, True, True]
    assert found[1]["within"] == pytest.approx(0) and found[2]["between"] == pytest.approx(0)
    assert found[3]["saturated"] == 1


def test_the_overlay_is_blue_at_0_and_yellow_at_1_and_keeps_the_picture():
    grey = np.full((64, 64, 3), 128, np.uint8)
    half = np.zeros((4, 4), np.float32)
    half[:, 2:] = 1
    shown = attention.overlay(grey, half).astype(int)
    assert shown[32, 4, 2] > shown[32, 4, 0] and shown[32, 60, 0] > shown[32, 60, 2]
    assert np.array_equal(attention.overlay(grey, half, strength=0), grey)
    assert np.ptp(attention.overlay(grey, np.full((4, 4), 0.5)), axis=(0, 1)).max() == 0

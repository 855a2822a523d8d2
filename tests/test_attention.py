"""Attention: what it costs, what it computes, and that everything that is done with a network is done with this one too."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.signal import correlate

from edge_derm.data import open_dataset
from edge_derm.errors import ModelError

keras = pytest.importorskip("keras", reason="Keras is not installed")

import chain_models  # noqa: E402
from edge_derm.modeling import architecture, attention, export, scoring, stages, training  # noqa: E402
from edge_derm.modeling.compression import chain as chains  # noqa: E402
from edge_derm.modeling.compression import prune, qat, quantise, reconstruct  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402

SIZE_PX = 48


@pytest.fixture(scope="module")
def pixels():
    return open_dataset("synthetic:64").images(SIZE_PX)


@pytest.fixture(scope="module")
def model(pixels):
    return chain_models.build(pixels, attention=True)


def features(model, pixels):
    seen = keras.Model(model.input, model.get_layer(attention.NAME).input)
    return seen.predict_on_batch(pixels.astype(np.float32) / 128 - 1)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("size_px", [64, 128, 224])
def test_attention_costs_less_than_two_percent_in_multiplications(alpha, size_px):
    channels, side = int(1024 * alpha), -(-size_px // 32)
    convolutions = side * side * (channels * (channels // 16) + 9 * (channels // 16))
    plain, ours = (stages.macs(alpha, size_px, 7, attention=a) for a in (False, True))
    assert ours - plain == convolutions
    assert convolutions + side * side * channels < 0.02 * plain  # the weighing itself, too


def test_parameters_and_multiplications_are_those_of_the_network():
    model = architecture.build({"dw1": 2}, size_px=64, classes=4, attention=True)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert trainable == stages.parameters(0.25, 4, attention=True)
    assert trainable - stages.parameters(0.25, 4) == 256 * 16 + 16 + 9 * 16 + 1
    assert prune.macs(chains.fold(model), 64) == stages.macs(0.25, 64, 4, attention=True)


def test_a_network_with_attention_starts_as_one_without():
    """So that runs of one seed are a pair: every other weight is drawn alike, and the mask is one half everywhere."""
    nets = []
    for wanted in (False, True):
        keras.utils.set_random_seed(5)
        nets.append(architecture.build({}, size_px=32, classes=3, attention=wanted))
    plain, ours = nets
    for layer in plain.layers:
        for a, b in zip(layer.get_weights(), ours.get_layer(layer.name).get_weights(), strict=True):
            assert np.array_equal(a, b)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    pools = [keras.Model(net.input, net.get_layer("pool").output)(image).numpy() for net in nets]
    assert np.allclose(1.5 * pools[0], pools[1], atol=1e-6)


def test_the_mask_is_what_the_arithmetic_says(model, pixels):
    """Against SciPy's correlation, channel by channel."""
    seen = features(model, pixels[:2]).astype(np.float64)
    squeeze, squeeze_bias, look, look_bias = model.get_layer(attention.NAME).get_weights()
    squeezed = np.clip(seen @ squeeze[0, 0] + squeeze_bias, 0, 6)
    for image, found in zip(squeezed, attention.masks(model, pixels[:2])):
        raw = sum(correlate(image[..., k], look[..., k, 0], mode="same") for k in range(look.shape[2]))
        assert np.allclose(1 / (1 + np.exp(-(raw + look_bias))), found, atol=1e-5)
    assert (
        attention.masks(model, pixels).std(axis=(1, 2)).mean() > 0.02
    )  # the fixture's masks do differ by place


def test_training_pulls_the_masks_mean_logit_to_zero_and_inference_does_not(model, pixels):
    """What keeps a mask from saturating: 0.1 · (mean logit)², a part of a training step's loss."""
    images = pixels[:8].astype(np.float32) / 128 - 1
    mask = attention.masks(model, pixels[:8]).astype(np.float64)
    mean = np.log(mask / (1 - mask)).mean()
    head = architecture.logits_of(model)
    head(images, training=False)
    assert head.losses == []
    layer = model.get_layer(attention.NAME)
    layer(features(model, pixels[:8]), training=True)
    assert [float(loss) for loss in layer.losses] == [pytest.approx(0.1 * mean**2, rel=1e-4)]
    head(images, training=True)
    assert len(head.losses) == 1 and abs(mean) > 0.01


def test_a_model_without_attention_has_no_masks(pixels):
    with pytest.raises(ModelError) as caught:
        attention.masks(architecture.build({}, size_px=SIZE_PX, classes=3), pixels)
    assert caught.value.code == "attention-missing"


def test_a_folded_chain_computes_what_keras_computes(model, pixels):
    chain = chains.fold(model)
    assert len(chain) == 6 and chain[-1].gate is not None
    logits = architecture.logits_of(model).predict_on_batch(pixels.astype(np.float32) / 128 - 1)
    assert np.abs(chain_models.logits(chain, pixels) - logits).max() <= 2e-4 * np.abs(logits).max()
    again = chains.unfold(model, chain)
    found = architecture.logits_of(again).predict_on_batch(pixels.astype(np.float32) / 128 - 1)
    assert np.abs(found - logits).max() <= 2e-4 * np.abs(logits).max()


def test_channels_that_say_nothing_leave_without_changing_an_answer(model, pixels):
    """Constant features: what they gave the mask and the classifier moves into the biases."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    last = [layer for layer in copy.layers if isinstance(layer, keras.layers.BatchNormalization)][-1]
    gone = np.arange(5, 11)
    gamma, beta, mean, variance = last.get_weights()
    gamma[gone], beta[gone] = 0, 1.5
    last.set_weights([gamma, beta, mean, variance])
    chain = chains.fold(copy)
    kept = {layer.name: np.arange(layer.bias.size) for layer in chain if layer.kind == "conv"}
    kept[chain[-2].name] = np.setdiff1d(np.arange(24), gone)
    means = {name: mean for name, (mean, _) in prune.statistics(chain, pixels).items()}
    narrowed = prune.narrow(copy, kept, means)
    assert narrowed.get_layer(chain[-2].name).filters == 18
    assert np.abs(attention.masks(narrowed, pixels) - attention.masks(copy, pixels)).max() < 1e-5
    saved = prune.macs(chain, SIZE_PX) - prune.macs(chains.fold(narrowed), SIZE_PX)
    assert saved == 6 * (
        12**2 * (16 + 4) + 4
    )  # a pointwise column, one of the mask's, one of the classifier's


def test_training_with_int8_simulated_keeps_the_attention(model, pixels):
    """The simulation starts as the network it is made of, its attention is trained too and goes back into the network."""
    levelled, ranges = quantise.level(chains.fold(model), pixels)
    chain = reconstruct.reconstruct(levelled, pixels, reconstruct.quantiser(ranges))
    simulated = qat.trainable(chain, ranges, SIZE_PX)
    found = scoring.probabilities(simulated, pixels)
    parent = scoring.probabilities(model, pixels)
    assert (found.argmax(axis=1) == parent.argmax(axis=1)).mean() >= 0.97
    gate = simulated.get_layer(attention.NAME)
    assert len(gate.trainable_weights) == 4
    gate.look_bias.assign_add([1.0])
    back = chains.unfold(model, qat.trained(simulated, chain)[0])
    moved = attention.masks(back, pixels) - attention.masks(chains.unfold(model, chain), pixels)
    assert moved.min() > 0 and np.abs(scoring.probabilities(back, pixels) - parent).max() > 1e-4


def test_a_run_from_before_attention_existed_stays_the_same_run():
    dataset = open_dataset("synthetic:40")
    parts = training.split(dataset, seed=0)
    plain = training._identity(dataset, parts, training.TrainConfig())
    assert "attention" not in plain["config"]
    assert training._identity(dataset, parts, training.TrainConfig(attention=True)) != plain


@pytest.fixture(scope="module")
def product(model, pixels):
    return export.export(model, recipe="int8", calibration=pixels)


@pytest.mark.slow
def test_the_int8_file_has_three_more_plain_operators_and_two_convolutions(product):
    operators = product.summary.operators
    assert operators == {
        "CONV_2D": 3 + 2,
        "DEPTHWISE_CONV_2D": 2,
        "LOGISTIC": 1,
        "ADD": 1,
        "MUL": 1,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
        "SOFTMAX": 1,
    }
    assert product.rounding == "reconstruct" and product.dilated_depthwise == 1


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_int8_decides_as_the_float_model_does(product, model, kernels):
    unseen = open_dataset("synthetic:80", seed=9).images(SIZE_PX)
    deployed = Classifier.of(product.model, kernels=kernels).predict(unseen)
    parent = scoring.probabilities(model, unseen)
    assert (deployed.argmax(axis=1) == parent.argmax(axis=1)).mean() >= 0.97
    assert len(set(parent.argmax(axis=1))) == 4


@pytest.mark.parametrize(
    "dilation, attended", [({"conv1": 2}, False), ({}, True)], ids=["conv1", "attention"]
)
def test_a_fresh_process_reads_layers_of_our_own(tmp_path, dilation, attended):
    """Keras reads a class only where its module was imported: ``verify --against RUN`` imported neither."""
    path = tmp_path / "model.keras"
    architecture.build(dilation, size_px=SIZE_PX, classes=3, attention=attended).save(path)
    script = "import pathlib, sys; from edge_derm.modeling import runs; runs.load(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

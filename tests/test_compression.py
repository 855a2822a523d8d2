"""Compression: each method is held to what it promises, with oracles that do not share its code."""

import itertools

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
from edge_derm.data import open_dataset  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import architecture, export as exporting  # noqa: E402
from edge_derm.modeling.compression import chain as chains  # noqa: E402
from edge_derm.modeling.compression import equalise, quantise, reconstruct  # noqa: E402
from edge_derm.modeling.training import probabilities  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402
from firmware_bridge.tflite import parse  # noqa: E402


@pytest.fixture(scope="module")
def pixels():
    return open_dataset("synthetic:64").images(48)


@pytest.fixture(scope="module")
def model(pixels):
    """Five convolutions, one dilated, whose statistics are those of their data; logits that decide for several classes."""
    rng = np.random.default_rng(1)
    x = image = keras.Input((48, 48, 3))
    kl = keras.layers
    for number, (kind, width, stride, rate) in enumerate(SMALL):
        if kind == "dw":
            conv = kl.DepthwiseConv2D(3, stride, "same", use_bias=False, dilation_rate=rate)
        else:
            conv = kl.Conv2D(width, kind, stride, "same", use_bias=False)
        norm = kl.BatchNormalization(
            momentum=0.0, gamma_initializer=uniform(rng), beta_initializer=uniform(rng)
        )
        x = kl.ReLU(6.0)(norm(conv(x)))
    features = kl.GlobalAveragePooling2D()(x)
    made = keras.Model(image, kl.Softmax()(kl.Dense(4, name="logits")(features)))
    made(pixels.astype(np.float32) / 128 - 1, training=True)
    head = made.get_layer("logits")
    head.kernel.assign(rng.normal(0, 1.5, head.kernel.shape))
    pooled = quantise.pooled(chains.fold(made), pixels)
    head.bias.assign(-(pooled @ head.kernel.numpy()).mean(axis=0))
    return made


SMALL = ((3, 8, 2, 1), ("dw", 8, 1, 2), (1, 16, 1, 1), ("dw", 16, 2, 1), (1, 24, 1, 1))


def uniform(rng):
    return keras.initializers.RandomUniform(0.5, 1.5, seed=int(rng.integers(1000)))


@pytest.fixture(scope="module")
def chain(model):
    return chains.fold(model)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_a_folded_chain_computes_what_keras_computes(model, chain, pixels):
    assert [layer.kind for layer in chain] == ["conv", "dw", "conv", "dw", "conv", "dense"]
    assert [layer.rate for layer in chain[:2]] == [1, 2]
    found = softmax(chains.logits(chain, pixels))
    assert np.abs(found - probabilities(model, pixels)).max() <= 5e-5
    again = chains.unfold(model, chain)
    assert np.abs(probabilities(again, pixels) - found).max() <= 5e-5


def test_our_own_architecture_is_a_chain_with_every_rate():
    chain = chains.fold(
        architecture.build({"conv1": 2, "dw1": 2, "dw3": 3}, size_px=32, classes=4, dropout_depth=3)
    )
    assert len(chain) == 28 and [layer.rate for layer in chain if layer.rate > 1] == [2, 2, 3]
    assert sum(layer.stride == 2 for layer in chain) == 5


def test_other_structures_are_named():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    theirs = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    with pytest.raises(ModelError) as caught:
        chains.fold(theirs)
    assert caught.value.code == "chain-structure"


def test_equalising_and_centring_change_no_probability_inside_the_ranges(chain, pixels):
    before = chains.logits(chain, pixels)
    equal = equalise.equalise(chain, equalise.channel_ranges(chain, pixels))
    # Borders aside (none here: shifts go only into pointwise layers), this is the same function.
    assert np.abs(chains.logits(equal, pixels) - before).max() <= 1e-3 * np.abs(before).max()
    centred = equalise.centre_logits(equal, quantise.pooled(equal, pixels))
    after = chains.logits(centred, pixels)
    assert np.abs(softmax(after) - softmax(before)).max() <= 1e-3
    assert np.ptp(np.sort(after, axis=1)[:, -2:]) <= np.ptp(np.sort(before, axis=1)[:, -2:])


def test_equalised_channels_use_more_of_their_range(chain, pixels):
    equal = equalise.equalise(chain, equalise.channel_ranges(chain, pixels))
    spans = [
        np.concatenate(
            [
                high
                for name, (_, high) in equalise.channel_ranges(c, pixels).items()
                if name not in ("pool", "logits")
            ]
        )
        for c in (chain, equal)
    ]
    assert np.median(spans[1]) > np.median(spans[0]) and spans[1].max() <= 6.0


def test_integers_beat_every_other_choice_of_a_small_problem():
    """Against all 3^5 neighbours of the rounded point: coordinate descent with pairs may stop early, but never behind rounding."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(40, 5)) + 2.0  # inputs with a mean, as after a ReLU: errors add up
    gram = (a.T @ a / 40)[None]
    steps = rng.uniform(-90, 90, (5, 1))
    steps[2] = 127.0  # the greatest, which holds the scale

    def cost(q):
        return float((q - steps)[:, 0] @ gram[0] @ (q - steps)[:, 0])

    rounded = np.round(steps)
    best = min(
        cost(rounded + np.array(move)[:, None])
        for move in itertools.product((-1, 0, 1), repeat=5)
        if move[2] == 0
    )
    found = reconstruct.descend(steps, rounded, gram)
    assert np.array_equal(found, np.round(found)) and found[2] == 127 and np.abs(found).max() <= 127
    assert cost(found) <= cost(rounded) and cost(found) <= 1.5 * best


def test_greedy_rounding_beats_the_nearest_for_correlated_inputs():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(500, 24)) @ rng.normal(size=(24, 24)) + 3.0
    gram = a.T @ a / 500
    steps = rng.uniform(-120, 120, (24, 8))

    def cost(q):
        return np.einsum("io,ij,jo->o", q - steps, gram, q - steps)

    greedy = reconstruct.round_greedily(steps, gram)
    assert cost(greedy).sum() < 0.75 * cost(np.round(steps)).sum()


def test_taps_are_the_convolution(chain):
    x = np.random.default_rng(5).normal(size=(2, 9, 9, 8)).astype(np.float32)
    for stride, rate in ((1, 1), (1, 3), (2, 1)):
        layer = chains.Layer("dw", "dw", chain[1].kernel, chain[1].bias, stride, rate)
        mine = sum(
            tap * layer.kernel[i // 3, i % 3, :, 0] for i, tap in enumerate(reconstruct.taps(x, stride, rate))
        )
        assert np.allclose(mine + layer.bias, chains.apply(layer, x), atol=1e-4)


@pytest.fixture(scope="module")
def prepared(model, pixels):
    return quantise.prepare(model, pixels)


@pytest.fixture(scope="module")
def product(model, pixels):
    return exporting.export(model, recipe="int8", calibration=pixels)


@pytest.mark.slow
def test_the_file_holds_exactly_the_chosen_weights_and_ranges(prepared, product):
    """Read with the product's reader: every integer weight times its scale is the prepared kernel, every range the fixed one."""
    graph = parse(product.model)
    operators = [op for op in graph.ops if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    assert len(operators) == len(prepared.chain)
    for op, layer in zip(operators, prepared.chain):
        weights = graph.tensor(op.inputs[1])
        axis = 3 if layer.kind == "dw" else 0
        scale = np.asarray(weights.quantization.scale)
        shape = [1] * len(weights.shape)
        shape[axis] = -1
        stored = np.asarray(weights.data, np.float64).reshape(weights.shape) * scale.reshape(shape)
        wanted = np.moveaxis(layer.kernel, -1, 0).reshape(weights.shape)
        assert np.abs(stored - wanted).max() <= 0.01 * scale.min(), layer.name
    output = {op.name: graph.tensor(op.outputs[0]).quantization for op in graph.ops}
    low, high = prepared.ranges["logits"]
    assert output["FULLY_CONNECTED"].scale[0] == pytest.approx((high - low) / 255, rel=1e-5)


@pytest.mark.slow
def test_simulated_int8_is_what_the_reference_kernels_compute(model, pixels, product):
    """The arithmetic in NumPy and that of LiteRT's reference kernels decide alike and differ by a few steps of 1/256."""
    chain, ranges = quantise.level(chains.fold(model), pixels)
    rule = reconstruct.quantiser(ranges)
    rounded = reconstruct.reconstruct(chain, pixels, rule)
    simulated = softmax(reconstruct.simulate(rounded, rule, pixels))
    found = Classifier.of(product.model, kernels="reference").predict(pixels)
    assert np.abs(simulated - found).mean() <= 2 / 256
    assert (simulated.argmax(axis=1) == found.argmax(axis=1)).mean() >= 0.95


@pytest.mark.slow
def test_reconstruction_is_nearer_to_the_parent_than_nearest_rounding(model, pixels, product):
    assert product.rounding == "reconstruct"
    nearest = exporting.export(model, recipe="int8", calibration=pixels, rounding="nearest")
    fresh = open_dataset("synthetic:200").images(48)[64:]
    wanted = probabilities(model, fresh)
    for kernels in ("default", "reference"):
        errors = [
            np.abs(Classifier.of(p.model, kernels=kernels).predict(fresh) - wanted).mean()
            for p in (product, nearest)
        ]
        assert errors[0] < 0.8 * errors[1], errors


@pytest.mark.slow
def test_other_structures_are_exported_with_nearest_rounding_unless_asked_otherwise(pixels):
    image = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    theirs = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    assert exporting.export(theirs, recipe="int8", calibration=pixels).rounding == "nearest"
    with pytest.raises(ModelError) as caught:
        exporting.export(theirs, recipe="int8", calibration=pixels, rounding="reconstruct")
    assert caught.value.code == "chain-structure"

"""Rounding to int8, in export and in training: each part is held to what it promises, with oracles that do not share its code."""

import itertools

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import chain_models  # noqa: E402
from chain_models import softmax  # noqa: E402
from edge_derm import making  # noqa: E402
from edge_derm.bundle import check_model  # noqa: E402
from edge_derm.data import open_dataset  # noqa: E402
from edge_derm.errors import DataError, ModelError  # noqa: E402
from edge_derm.modeling import export as exporting  # noqa: E402
from edge_derm.modeling.compression import chain as chains  # noqa: E402
from edge_derm.modeling.compression import qat, quantise, reconstruct, sensitivity  # noqa: E402
from edge_derm.modeling.scoring import probabilities  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402
from firmware_bridge.tflite import parse  # noqa: E402


@pytest.fixture(scope="module")
def prepared(chain_model, chain_pixels):
    return quantise.prepare(chain_model, chain_pixels)


@pytest.fixture(scope="module")
def product(chain_model, chain_pixels):
    return exporting.export(chain_model, recipe="int8", calibration=chain_pixels)


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
def test_simulated_int8_is_what_the_reference_kernels_compute(chain_model, chain_pixels, product):
    """The arithmetic in NumPy and that of LiteRT's reference kernels decide alike and differ by a few steps of 1/256."""
    chain, ranges = quantise.level(chains.fold(chain_model), chain_pixels)
    rule = reconstruct.quantiser(ranges)
    rounded = reconstruct.reconstruct(chain, chain_pixels, rule)
    simulated = softmax(chain_models.logits(rounded, chain_pixels, lambda name, v: rule(name, np.asarray(v))))
    found = Classifier.of(product.model, kernels="reference").predict(chain_pixels)
    assert np.abs(simulated - found).mean() <= 2 / 256
    assert (simulated.argmax(axis=1) == found.argmax(axis=1)).mean() >= 0.95


@pytest.mark.slow
def test_reconstruction_is_nearer_to_the_parent_than_nearest_rounding(chain_model, chain_pixels, product):
    assert product.rounding == "reconstruct"
    nearest = exporting.export(chain_model, recipe="int8", calibration=chain_pixels, rounding="nearest")
    fresh = open_dataset("synthetic:200").images(48)[64:]
    wanted = probabilities(chain_model, fresh)
    for kernels in ("default", "reference"):
        errors = [
            np.abs(Classifier.of(p.model, kernels=kernels).predict(fresh) - wanted).mean()
            for p in (product, nearest)
        ]
        assert errors[0] < 0.8 * errors[1], errors


@pytest.mark.slow
def test_dynamic_rounds_by_reconstruction_where_images_are_known_and_only_what_the_file_rounds(
    chain_model, chain_pixels
):
    """Kernels of this network are too small for the converter to make them int8: the file stays its parent."""
    wanted = probabilities(chain_model, chain_pixels)
    for rounding, images in (("reconstruct", chain_pixels), ("nearest", None)):
        made = exporting.export(chain_model, recipe="dynamic", calibration=images)
        assert made.rounding == rounding
        assert np.abs(Classifier.of(made.model).predict(chain_pixels) - wanted).max() <= 1e-4
    with pytest.raises(ModelError) as caught:
        exporting.export(chain_model, recipe="dynamic", rounding="reconstruct")
    assert caught.value.code == "calibration-missing"


@pytest.mark.slow
def test_dynamic_by_reconstruction_is_nearer_to_the_parent_than_to_the_nearest(chain_pixels):
    model = chain_models.build(chain_pixels, plan=chain_models.WIDE)
    fresh = open_dataset("synthetic:200").images(48)[64:]
    wanted, errors = probabilities(model, fresh), {}
    for rounding in ("reconstruct", "nearest"):
        made = exporting.export(model, recipe="dynamic", rounding=rounding, calibration=chain_pixels)
        graph = check_model(made.model)
        kernels = [graph.tensor(op.inputs[1]) for op in graph.ops if op.name.endswith("CONV_2D")]
        assert [kernel.dtype for kernel in kernels if kernel.data.size >= exporting.LEAST] == ["int8"] * 2
        errors[rounding] = np.abs(Classifier.of(made.model).predict(fresh) - wanted).mean()
    assert errors["reconstruct"] < 0.8 * errors["nearest"], errors


def test_small_kernels_stay_as_they_are_where_that_is_asked_for(chain, chain_pixels):
    rounded = reconstruct.reconstruct(chain, chain_pixels, lambda name, values: values, least=150)
    kept = [np.array_equal(a.kernel, b.kernel) for a, b in zip(chain, rounded)]
    assert kept == [layer.kernel.size < 150 for layer in chain] and 0 < sum(kept) < len(kept)


def test_images_are_looked_at_where_a_recipe_gains_by_them():
    needs = exporting.needs_images
    assert needs("int8") and needs("int16x8", "nearest") and needs("dynamic", "reconstruct")
    assert needs("dynamic", known=True) and not needs("dynamic")
    assert not needs("dynamic", "nearest", known=True) and not needs("float32", known=True)


def test_a_run_whose_images_are_elsewhere_is_still_exported_where_none_are_needed(tmp_path):
    run = {"data": {"spec": str(tmp_path / "gone")}}

    def images(recipe, rounding=None, data=None):
        return making.images_for(tmp_path, run, data, 32, recipe=recipe, rounding=rounding, seed=0)

    assert images("dynamic") is None and images("dynamic", "nearest") is None and images("float32") is None
    for asked in ({"recipe": "int8"}, {"recipe": "dynamic", "rounding": "reconstruct"}):
        with pytest.raises(DataError):
            images(**asked)
    with pytest.raises(DataError):  # images that were named have to be there
        images("dynamic", data=str(tmp_path / "gone too"))


@pytest.mark.slow
def test_other_structures_are_exported_with_nearest_rounding_unless_asked_otherwise(chain_pixels):
    image = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    theirs = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    assert exporting.export(theirs, recipe="int8", calibration=chain_pixels).rounding == "nearest"
    with pytest.raises(ModelError) as caught:
        exporting.export(theirs, recipe="int8", calibration=chain_pixels, rounding="reconstruct")
    assert caught.value.code == "chain-structure"


def test_the_range_of_the_logits_is_the_best_of_all_that_are_tried():
    """Near decisions between two classes, five that never win, some images with no doubt; against a grid searched by hand."""
    rng = np.random.default_rng(8)
    scores = np.concatenate([rng.normal(0, 0.4, (300, 2)), rng.normal(-7, 1, (300, 5))], axis=1)
    scores[:6, 0] += 9

    def error(low, high):
        step = (high - low) / 255
        zero = np.round(-low / step)
        rounded = (np.clip(np.round(scores / step) + zero, 0, 255) - zero) * step
        return np.square(softmax(rounded) - softmax(scores)).mean()

    low, high = quantise.logit_range(scores.astype(np.float32))
    tried = [
        error(a, b) for a in np.linspace(scores.min(), -2, 15) for b in np.linspace(0.5, scores.max(), 15)
    ]
    assert scores.min() < low < -3 and error(low, high) <= 1.1 * min(tried)
    assert error(low, high) < 0.8 * error(scores.min(), scores.max())


def test_the_sensitivity_table_names_the_rounding_that_hurts(chain, chain_pixels):
    """Kernels that are on their grid cost nothing; the one activation whose steps are made coarse costs most."""
    levelled, ranges = quantise.level(chain, chain_pixels)
    rounded = tuple(reconstruct.round_nearest(layer) for layer in levelled)
    coarse = rounded[2].name
    ranges[coarse] = (0.0, 60.0)
    rows = sensitivity.sensitivity(rounded, ranges, chain_pixels)
    assert [row["layer"] for row in rows] == [layer.name for layer in rounded] + list(ranges)
    kernels, activations = rows[: len(rounded)], rows[len(rounded) :]
    assert all(row["margin_change"] <= 1e-3 and row["agreement"] == 1 for row in kernels)
    assert max(activations, key=lambda row: row["margin_change"])["layer"] == coarse
    # The same by hand: this activation alone rounded in the plain forward pass.
    rule = reconstruct.quantiser(ranges)
    alone = chain_models.logits(
        rounded, chain_pixels, lambda name, v: tf.round(v * 4.25) / 4.25 if name == coarse else v
    )
    assert rule(coarse, np.float32(1.0)) == pytest.approx(round(4.25) / 4.25)
    exact = chain_models.logits(rounded, chain_pixels)
    row = next(row for row in activations if row["layer"] == coarse)
    assert row["agreement"] == (alone.argmax(axis=1) == exact.argmax(axis=1)).mean()


@pytest.mark.slow
def test_fake_quantised_weights_are_the_converters(chain_model, chain_pixels):
    """The converter's own rounding of the same folded kernels, read from its file, is ours to the last bit of the integers."""
    chain = chains.fold(chain_model)
    plain = exporting.export(
        chains.unfold(chain_model, chain), recipe="int8", calibration=chain_pixels, rounding="nearest"
    )
    graph = parse(plain.model)
    operators = [op for op in graph.ops if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    for op, layer in zip(operators, chain):
        weights = graph.tensor(op.inputs[1])
        scale = np.asarray(weights.quantization.scale)
        stored = np.asarray(weights.data).reshape(weights.shape)
        kernel = np.asarray(qat.fake_quantise(layer.kernel))
        ours = np.moveaxis(kernel, -1, 0).reshape(weights.shape)
        ours = ours / scale.reshape(
            [-1 if i == (3 if layer.kind == "dw" else 0) else 1 for i in range(ours.ndim)]
        )
        assert np.abs(ours - np.round(ours)).max() <= 2e-3, layer.name
        assert (np.round(ours) != stored).mean() <= 0.002, layer.name  # halves may fall either way


def test_simulated_activations_are_rounded_on_the_converters_grid():
    """By hand: 256 steps over the range, zero exactly on one of them."""
    layer = qat.Pooling(name="pool")
    layer.build((None, 1, 1, 5))
    layer.low.assign(-1.0)
    layer.high.assign(2.0)
    values = np.array([-2.0, -0.31, 0.0, 0.777, 9.0], np.float32)
    step = 3.0 / 255
    zero = round(1.0 / step)
    by_hand = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
    assert np.allclose(layer(values.reshape(1, 1, 1, 5)).numpy()[0], by_hand, atol=1e-6)


def test_a_simulated_chain_is_the_chain_and_gives_it_back(chain, chain_pixels):
    levelled, ranges = quantise.level(chain, chain_pixels)
    rule = reconstruct.quantiser(ranges)
    rounded = tuple(reconstruct.round_nearest(layer) for layer in levelled)
    simulated = qat.trainable(rounded, ranges, 48)
    wanted = softmax(chain_models.logits(rounded, chain_pixels, lambda name, v: rule(name, np.asarray(v))))
    assert np.abs(probabilities(simulated, chain_pixels) - wanted).mean() <= 2e-3
    back, found = qat.trained(simulated, rounded)
    assert found == {name: pytest.approx(pair, abs=1e-6) for name, pair in ranges.items()}
    for a, b in zip(back, rounded):
        assert np.abs(a.kernel - b.kernel).max() <= 1e-6 and np.array_equal(a.bias, b.bias)

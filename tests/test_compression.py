"""Compression: each method is held to what it promises, with oracles that do not share its code."""

import dataclasses
import itertools

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import chain_models  # noqa: E402
from edge_derm import making  # noqa: E402
from edge_derm.data import open_dataset, split  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import architecture, runs, stages, export as exporting  # noqa: E402
from edge_derm.modeling.compression import chain as chains  # noqa: E402
from edge_derm.modeling.compression import (  # noqa: E402
    cluster,
    equalise,
    prune,
    qat,
    quantise,
    reconstruct,
    sensitivity,
    spare,
    tuning,
)  # noqa: E402
from edge_derm.modeling.recipe import TrainConfig  # noqa: E402
from edge_derm.modeling.scoring import probabilities  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402
from firmware_bridge.tflite import parse  # noqa: E402


@pytest.fixture(scope="module")
def pixels():
    return open_dataset("synthetic:64").images(48)


@pytest.fixture(scope="module")
def model(pixels):
    return chain_models.build(pixels)


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


def test_usual_ranges_leave_out_the_rare_share_and_no_more(chain, pixels):
    seen = {}

    def observe(name, values):
        seen[name] = np.asarray(values).reshape(-1, values.shape[-1])
        return values

    chains.forward(chain[:2], pixels.astype(np.float32) / 128 - 1, observe)
    found = equalise.usual_ranges(chain[:2], pixels, rare=0.01)
    for layer in chain[:2]:
        values, (low, high), two = seen[layer.name], found[layer.name], 2 * 6 / 4096
        assert max((values < low).mean(axis=0).max(), (values > high).mean(axis=0).max()) <= 0.01
        assert min((values < low + two).mean(axis=0).min(), (values > high - two).mean(axis=0).min()) > 0.01


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


def with_dead_channels(chain, dead):
    """The chain with some channels of its first stage constant: nothing comes in, a constant goes out."""
    layers = list(chain)
    first, second = layers[0].kernel.copy(), layers[1].kernel.copy()
    biases = [layers[0].bias.copy(), layers[1].bias.copy()]
    first[..., dead], biases[0][dead] = 0, -1.0
    second[:, :, dead], biases[1][dead] = 0, 0.7
    layers[0] = dataclasses.replace(layers[0], kernel=first, bias=biases[0])
    layers[1] = dataclasses.replace(layers[1], kernel=second, bias=biases[1])
    return tuple(layers)


def test_spare_channels_change_nothing_in_float_and_make_rounding_finer(chain, pixels):
    dead = with_dead_channels(chain, [1, 4, 6])
    used = spare.use_spares(dead, equalise.channel_ranges(dead, pixels), pixels)
    copied = [np.abs(used[0].kernel[..., c]).max() > 0 for c in (1, 4, 6)]
    assert all(copied) and used[0].kernel.shape == dead[0].kernel.shape
    exact = chains.logits(dead, pixels)
    # Half a step of padding at the borders, and of clipping at 6, is all that may differ.
    assert np.abs(chains.logits(used, pixels) - exact).max() <= 0.02 * exact.std()
    first = {dead[0].name, dead[1].name}

    def rounded(name, values):
        return tf.round(values * (255 / 6)) * (6 / 255) if name in first else values

    errors = [
        np.square(chains.logits(c, pixels, rounded) - chains.logits(c, pixels)).mean() for c in (dead, used)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_pruned_channels_are_gone_and_the_means_of_the_gone_ones_stay(model, chain, pixels):
    share = 0.6
    kept = prune.choose(chain, pixels, share=share)
    means = {name: mean for name, (mean, _) in prune.statistics(chain, pixels).items()}
    smaller = prune.narrow(model, kept, means)
    widths = [layer.kernel.shape[-1] for layer in chains.fold(smaller) if layer.kind == "conv"]
    assert widths == [len(channels) for channels in kept.values()]
    assert prune.macs(chains.fold(smaller), 48) <= share * prune.macs(chain, 48)
    # By hand: 24² × 27 × out, then 24² × 9 for each channel, …
    c1, p1, p2 = widths
    by_hand = 24**2 * (27 * c1 + 9 * c1 + c1 * p1) + 12**2 * (9 * p1 + p1 * p2) + p2 * 4
    assert prune.macs(chains.fold(smaller), 48) == by_hand


def test_channels_that_never_change_leave_without_a_trace(model, chain, pixels):
    """Two channels are made constant; taking them out alters nothing, because what they gave moves into the next batch norm."""
    still = keras.models.clone_model(model)
    still.set_weights(model.get_weights())
    name = [layer.name for layer in chain if layer.kind == "conv"][1]
    norm = still.layers[still.layers.index(still.get_layer(name)) + 1]
    gamma, beta, mean, variance = norm.get_weights()
    gamma[:2], beta[:2] = 0, [1.5, -1.0]
    norm.set_weights([gamma, beta, mean, variance])
    folded = chains.fold(still)
    # The depthwise layer behind them pads with zeros, so only a kernel of its centre keeps a constant constant.
    behind = still.get_layer(folded[3].name)
    kernel = behind.get_weights()[0]
    kernel[:, :, :2] = 0
    kernel[1, 1, :2] = 1
    behind.set_weights([kernel])
    folded = chains.fold(still)
    means = {key: value for key, (value, _) in prune.statistics(folded, pixels).items()}
    kept = {layer.name: np.arange(layer.bias.size) for layer in folded if layer.kind == "conv"}
    kept[name] = np.arange(2, 16)
    smaller = prune.narrow(still, kept, means)
    assert np.abs(probabilities(smaller, pixels) - probabilities(still, pixels)).max() <= 2e-4


def test_clustering_leaves_at_most_k_values_and_finds_separate_ones(model):
    rng = np.random.default_rng(0)
    centres = np.array([-3.0, -1.0, 0.5, 4.0])
    near, found = cluster.cluster(rng.choice(centres, 200) + rng.normal(0, 0.02, 200), 4)
    assert np.allclose(found, centres, atol=0.02) and len(np.unique(near)) == 4
    copy, _ = cluster.cluster_kernels(model, 5)
    assert tuning.distinct(copy) <= 5 < tuning.distinct(model)


def test_choices_out_of_range_are_named(model, chain, pixels):
    for code, call in (
        ("prune-share", lambda: prune.choose(chain, pixels, share=1.5)),
        ("prune-share", lambda: prune.choose(chain, pixels, share=0.001)),
        ("prune-sparsity", lambda: prune.masks(model, sparsity=0.0)),
        ("cluster-count", lambda: cluster.cluster_kernels(model, 1)),
    ):
        with pytest.raises(ModelError) as caught:
            call()
        assert caught.value.code == code


@pytest.mark.slow
def test_fake_quantised_weights_are_the_converters(model, pixels):
    """The converter's own rounding of the same folded kernels, read from its file, is ours to the last bit of the integers."""
    chain = chains.fold(model)
    plain = exporting.export(
        chains.unfold(model, chain), recipe="int8", calibration=pixels, rounding="nearest"
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


def test_a_simulated_chain_is_the_chain_and_gives_it_back(chain, pixels):
    levelled, ranges = quantise.level(chain, pixels)
    rule = reconstruct.quantiser(ranges)
    rounded = tuple(reconstruct.round_nearest(layer) for layer in levelled)
    simulated = qat.trainable(rounded, ranges, 48)
    wanted = softmax(reconstruct.simulate(rounded, rule, pixels))
    assert np.abs(probabilities(simulated, pixels) - wanted).mean() <= 2e-3
    back, found = qat.trained(simulated, rounded)
    assert found == {name: pytest.approx(pair, abs=1e-6) for name, pair in ranges.items()}
    for a, b in zip(back, rounded):
        assert np.abs(a.kernel - b.kernel).max() <= 1e-6 and np.array_equal(a.bias, b.bias)


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


def test_the_sensitivity_table_names_the_rounding_that_hurts(chain, pixels):
    """Kernels that are on their grid cost nothing; the one activation whose steps are made coarse costs most."""
    levelled, ranges = quantise.level(chain, pixels)
    rounded = tuple(reconstruct.round_nearest(layer) for layer in levelled)
    coarse = rounded[2].name
    ranges[coarse] = (0.0, 60.0)
    rows = sensitivity.sensitivity(rounded, ranges, pixels)
    assert [row["layer"] for row in rows] == [layer.name for layer in rounded] + list(ranges)
    kernels, activations = rows[: len(rounded)], rows[len(rounded) :]
    assert all(row["margin_change"] <= 1e-3 and row["agreement"] == 1 for row in kernels)
    assert max(activations, key=lambda row: row["margin_change"])["layer"] == coarse
    # The same by hand: this activation alone rounded in the plain forward pass.
    rule = reconstruct.quantiser(ranges)
    alone = chains.logits(rounded, pixels, lambda name, v: tf.round(v * 4.25) / 4.25 if name == coarse else v)
    assert rule(coarse, np.float32(1.0)) == pytest.approx(round(4.25) / 4.25)
    exact = chains.logits(rounded, pixels)
    row = next(row for row in activations if row["layer"] == coarse)
    assert row["agreement"] == (alone.argmax(axis=1) == exact.argmax(axis=1)).mean()


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A quickly trained run of 32 px pictures."""
    out = tmp_path_factory.mktemp("runs") / "parent"
    making.train("synthetic:160", out, size_px=32, epochs=2)
    return out


class Killed(Exception):
    pass


CHOICES = {
    "channels": {"method": "prune", "keep": 0.5},
    "weights": {"method": "prune", "sparsity": 0.7},
    "cluster": {"method": "cluster", "clusters": 6},
    "qat": {"method": "qat"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHOICES)
def test_a_compressed_run_keeps_its_promise_to_the_end(kind, parent, tmp_path):
    record = making.compress(parent, tmp_path / "run", epochs=2, **CHOICES[kind])
    found, stored = runs.load(tmp_path / "run")
    assert stored["method"] == CHOICES[kind]["method"] and stored["validation"] == record["validation"]
    before, _ = runs.load(parent)
    if kind == "channels":
        assert record["macs"] <= 0.5 * record["parent"]["macs"]
        assert record["parameters"] == sum(w.numpy().size for w in found.trainable_weights)
        assert record["parameters"] < record["parent"]["parameters"]
    elif kind == "weights":
        kernels = [w.numpy() for w in found.trainable_weights if w.shape[:2] == (1, 1)]
        zeros = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
        assert zeros == pytest.approx(0.7, abs=0.01)
    elif kind == "cluster":
        kernels = [w.numpy() for w in found.trainable_weights if len(w.shape) == 4]
        assert max(len(np.unique(kernel)) for kernel in kernels) <= 6
    else:
        kernels = [
            w.numpy().reshape(-1, w.shape[-1]) for w in found.trainable_weights if w.shape[:2] == (1, 1)
        ]
        assert max(len(np.unique(kernel[:, 0])) for kernel in kernels) <= 255
        assert len(record["ranges"]) == len(chains.fold(found)) + 1
    changed = [
        a.shape != b.shape or not np.array_equal(a, b)
        for a, b in zip(found.get_weights(), before.get_weights())
    ]
    assert any(changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("cluster", "qat"))
def test_a_resumed_compression_equals_an_uninterrupted_one(kind, parent, tmp_path, monkeypatch):
    choices = {**CHOICES[kind], "epochs": 2}
    whole = making.compress(parent, tmp_path / "whole", **choices)

    def kill(state, model):
        if state.epoch == 2:  # before its state is written
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(making, "tell_epoch", kill)
        with pytest.raises(Killed):
            making.compress(parent, tmp_path / "parts", **choices)
    resumed = making.compress(parent, tmp_path / "parts", **choices)
    for a, b in zip(
        runs.load(tmp_path / "whole")[0].get_weights(), runs.load(tmp_path / "parts")[0].get_weights()
    ):
        assert np.array_equal(a, b)
    assert resumed["history"] == whole["history"]


@pytest.mark.slow
def test_tuning_at_another_size_keeps_weights_and_parameters_and_counts_macs_anew(parent, tmp_path):
    """One optimizer step at a vanishing rate on a larger input: the same network, by shape and by weights."""
    record = making.compress(
        parent,
        tmp_path / "larger",
        method="distill",
        teachers=(str(parent),),
        size_px=64,
        epochs=1,
        learning_rate=1e-12,
    )
    model, before = runs.load(tmp_path / "larger")[0], runs.load(parent)[0]
    assert model.input_shape == (None, 64, 64, 3) and record["size_px"] == 64
    kernels = [
        [layer.kernel.numpy() for layer in net.layers if hasattr(layer, "kernel")] for net in (model, before)
    ]
    for ours, theirs in zip(*kernels):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert record["macs"] == stages.macs(0.25, 64, len(record["classes"]))
    assert record["parent"]["macs"] == stages.macs(0.25, 32, len(record["classes"]))
    with pytest.raises(ModelError) as caught:
        making.compress(parent, tmp_path / "none", method="distill", teachers=(str(parent),), size_px=16)
    assert caught.value.code == "size-range"


@pytest.mark.slow
def test_distillation_needs_a_teacher(parent, tmp_path):
    with pytest.raises(ModelError) as caught:
        making.compress(parent, tmp_path / "none", method="distill")
    assert caught.value.code == "distill-teacher"


@pytest.mark.slow
def test_the_teachers_part_of_the_loss_by_hand(parent):
    """Two teachers, one of another input size: mean of the softened decisions, cross-entropy, times weight and temperature²."""
    model, run = runs.load(parent)
    dataset = open_dataset("synthetic:160")
    parts = split(dataset, seed=0)
    settings = tuning.Settings("distill", weight=3.0, temperature=2.0)
    wide = architecture.build({}, size_px=48, classes=len(run["classes"]))
    session = tuning.Tuning(
        dataset,
        parts,
        TrainConfig(size_px=32),
        start=model,
        teachers=[model, wide],
        settings=settings,
        constraint=None,
    )
    images = dataset.images(32, range(6)).astype(np.float32) / 128 - 1
    logits = np.random.default_rng(0).normal(0, 2, (6, len(run["classes"]))).astype(np.float32)
    scores = [
        architecture.logits_of(model)(images).numpy(),
        architecture.logits_of(wide)(tf.image.resize(images, (48, 48))).numpy(),
    ]
    wanted = sum(softmax(z / 2) for z in scores) / 2
    by_hand = -3.0 * 4.0 * (wanted * np.log(softmax(logits / 2))).sum(axis=1).mean()
    assert float(session.pull(images, logits)) == pytest.approx(by_hand, rel=1e-4)

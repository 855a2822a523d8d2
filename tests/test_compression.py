"""Pruning, clustering, tuning: each method is held to what it promises, with oracles that do not share its code."""

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
from chain_models import softmax  # noqa: E402
from edge_derm import making  # noqa: E402
from edge_derm.data import open_dataset, split  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import architecture, runs, stages  # noqa: E402
from edge_derm.modeling.compression import chain as chains  # noqa: E402
from edge_derm.modeling.compression import cluster, prune, tuning  # noqa: E402
from edge_derm.modeling.recipe import TrainConfig  # noqa: E402
from edge_derm.modeling.scoring import probabilities  # noqa: E402


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


def test_pruned_channels_are_gone_and_the_means_of_the_gone_ones_stay(chain_model, chain, chain_pixels):
    share = 0.6
    kept = prune.choose(chain, chain_pixels, share=share)
    means = {name: mean for name, (mean, _) in prune.statistics(chain, chain_pixels).items()}
    smaller = prune.narrow(chain_model, kept, means)
    widths = [layer.kernel.shape[-1] for layer in chains.fold(smaller) if layer.kind == "conv"]
    assert widths == [len(channels) for channels in kept.values()]
    assert prune.macs(chains.fold(smaller), 48) <= share * prune.macs(chain, 48)
    # By hand: 24² × 27 × out, then 24² × 9 for each channel, …
    c1, p1, p2 = widths
    by_hand = 24**2 * (27 * c1 + 9 * c1 + c1 * p1) + 12**2 * (9 * p1 + p1 * p2) + p2 * 4
    assert prune.macs(chains.fold(smaller), 48) == by_hand


def test_channels_that_never_change_leave_without_a_trace(chain_model, chain, chain_pixels):
    """Two channels are made constant; taking them out alters nothing, because what they gave moves into the next batch norm."""
    still = keras.models.clone_model(chain_model)
    still.set_weights(chain_model.get_weights())
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
    means = {key: value for key, (value, _) in prune.statistics(folded, chain_pixels).items()}
    kept = {layer.name: np.arange(layer.bias.size) for layer in folded if layer.kind == "conv"}
    kept[name] = np.arange(2, 16)
    smaller = prune.narrow(still, kept, means)
    assert np.abs(probabilities(smaller, chain_pixels) - probabilities(still, chain_pixels)).max() <= 2e-4


def test_clustering_leaves_at_most_k_values_and_finds_separate_ones(chain_model):
    rng = np.random.default_rng(0)
    centres = np.array([-3.0, -1.0, 0.5, 4.0])
    near, found = cluster.cluster(rng.choice(centres, 200) + rng.normal(0, 0.02, 200), 4)
    assert np.allclose(found, centres, atol=0.02) and len(np.unique(near)) == 4
    copy, _ = cluster.cluster_kernels(chain_model, 5)
    assert tuning.distinct(copy) <= 5 < tuning.distinct(chain_model)


def test_choices_out_of_range_are_named(chain_model, chain, chain_pixels):
    for code, call in (
        ("prune-share", lambda: prune.choose(chain, chain_pixels, share=1.5)),
        ("prune-share", lambda: prune.choose(chain, chain_pixels, share=0.001)),
        ("prune-sparsity", lambda: prune.masks(chain_model, sparsity=0.0)),
        ("cluster-count", lambda: cluster.cluster_kernels(chain_model, 1)),
    ):
        with pytest.raises(ModelError) as caught:
            call()
        assert caught.value.code == code


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

"""A folded chain is the network it came from, and stays it when it is equalised and its spare channels are used."""

import dataclasses

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
import chain_models  # noqa: E402
from chain_models import softmax  # noqa: E402
from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import architecture  # noqa: E402
from edge_derm.modeling.compression import chain as chains  # noqa: E402
from edge_derm.modeling.compression import equalise, quantise, spare  # noqa: E402
from edge_derm.modeling.scoring import probabilities  # noqa: E402


def test_a_folded_chain_computes_what_keras_computes(chain_model, chain, chain_pixels):
    assert [layer.kind for layer in chain] == ["conv", "dw", "conv", "dw", "conv", "dense"]
    assert [layer.rate for layer in chain[:2]] == [1, 2]
    found = softmax(chain_models.logits(chain, chain_pixels))
    assert np.abs(found - probabilities(chain_model, chain_pixels)).max() <= 5e-5
    again = chains.unfold(chain_model, chain)
    assert np.abs(probabilities(again, chain_pixels) - found).max() <= 5e-5


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


def test_equalising_and_centring_change_no_probability_inside_the_ranges(chain, chain_pixels):
    before = chain_models.logits(chain, chain_pixels)
    equal = equalise.equalise(chain, equalise.channel_ranges(chain, chain_pixels))
    # Borders aside (none here: shifts go only into pointwise layers), this is the same function.
    assert np.abs(chain_models.logits(equal, chain_pixels) - before).max() <= 1e-3 * np.abs(before).max()
    centred = equalise.centre_logits(equal, quantise.pooled(equal, chain_pixels))
    after = chain_models.logits(centred, chain_pixels)
    assert np.abs(softmax(after) - softmax(before)).max() <= 1e-3
    assert np.ptp(np.sort(after, axis=1)[:, -2:]) <= np.ptp(np.sort(before, axis=1)[:, -2:])


def test_equalised_channels_use_more_of_their_range(chain, chain_pixels):
    equal = equalise.equalise(chain, equalise.channel_ranges(chain, chain_pixels))
    spans = [
        np.concatenate(
            [
                high
                for name, (_, high) in equalise.channel_ranges(c, chain_pixels).items()
                if name not in ("pool", "logits")
            ]
        )
        for c in (chain, equal)
    ]
    assert np.median(spans[1]) > np.median(spans[0]) and spans[1].max() <= 6.0


def test_usual_ranges_leave_out_the_rare_share_and_no_more(chain, chain_pixels):
    seen = {}

    def observe(name, values):
        seen[name] = np.asarray(values).reshape(-1, values.shape[-1])
        return values

    chains.forward(chain[:2], chain_pixels.astype(np.float32) / 128 - 1, observe)
    found = equalise.usual_ranges(chain[:2], chain_pixels, rare=0.01)
    for layer in chain[:2]:
        values, (low, high), two = seen[layer.name], found[layer.name], 2 * 6 / 4096
        assert max((values < low).mean(axis=0).max(), (values > high).mean(axis=0).max()) <= 0.01
        assert min((values < low + two).mean(axis=0).min(), (values > high - two).mean(axis=0).min()) > 0.01


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


def test_spare_channels_change_nothing_in_float_and_make_rounding_finer(chain, chain_pixels):
    dead = with_dead_channels(chain, [1, 4, 6])
    used = spare.use_spares(dead, equalise.channel_ranges(dead, chain_pixels), chain_pixels)
    copied = [np.abs(used[0].kernel[..., c]).max() > 0 for c in (1, 4, 6)]
    assert all(copied) and used[0].kernel.shape == dead[0].kernel.shape
    exact = chain_models.logits(dead, chain_pixels)
    # Half a step of padding at the borders, and of clipping at 6, is all that may differ.
    assert np.abs(chain_models.logits(used, chain_pixels) - exact).max() <= 0.02 * exact.std()
    first = {dead[0].name, dead[1].name}

    def rounded(name, values):
        return tf.round(values * (255 / 6)) * (6 / 255) if name in first else values

    errors = [
        np.square(chain_models.logits(c, chain_pixels, rounded) - chain_models.logits(c, chain_pixels)).mean()
        for c in (dead, used)
    ]
    assert errors[1] < 0.8 * errors[0]

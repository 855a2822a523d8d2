"""Stochastic passes on the deployed file: exact where nothing is dropped, repeatable, and what dropout means otherwise."""

import json
import subprocess
import sys

import cv2
import net_models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.bundle import Dropout, check_model, open_bundle, update_bundle, write_bundle
from edge_derm.bundle.cut import cut, expose
from edge_derm.bundle.describe import describe_model
from edge_derm.errors import BackendError, BundleError, ModelError
from edge_derm.runtime import Classifier, measures
from edge_derm.runtime.backends import load_engine
from edge_derm.runtime.dropout import DropoutPasses
from edge_derm.runtime.sampling import Sampler, Sampling
from edge_derm.runtime.views import views
from firmware_bridge import tflite

LABELS = ("akiec", "bcc", "mel", "nv")


@pytest.fixture(params=["int8", "uint8", "int16", "float32", "float16"])
def any_bundle(request, tmp_path, tiny_models):
    """The tiny network in every arithmetic."""
    model = tiny_models[request.param]
    return write_bundle(tmp_path / "any.bundle", describe_model(model, labels=LABELS), model=model)


@pytest.mark.parametrize("kernels", ["default", "reference"])
@pytest.mark.parametrize("depth", [1, 2])
def test_masks_of_rate_0_give_the_whole_files_bytes(any_bundle, tiny_images, kernels, depth):
    whole = Classifier.open(any_bundle, kernels=kernels).stored(tiny_images)
    passes = DropoutPasses(any_bundle, 5, rate=0.0, depth=depth, kernels=kernels).stored(tiny_images)
    assert passes.shape == (5, *whole.shape)
    assert all(one.tobytes() == whole.tobytes() for one in passes)


def test_a_dropped_channel_is_a_channel_of_zeros(tiny_float, tmp_path, tiny_images):
    """Against the head computed in NumPy from the features and weights that the file holds."""
    bundle = write_bundle(tmp_path / "f.bundle", describe_model(tiny_float, labels=LABELS), model=tiny_float)
    rate = 0.4
    sampled = DropoutPasses(bundle, 50, rate=rate, depth=1, seed=3)
    engine = load_engine(expose(tiny_float))
    graph = tflite.parse(tiny_float)
    head = [op for op in graph.ops if op.name == "FULLY_CONNECTED"][-1]
    weights, bias = (graph.tensor(i).data for i in head.inputs[1:])
    keep = np.random.default_rng(3).random((50, weights.shape[1])) >= rate
    for image in tiny_images[:4]:
        scores, features = engine.run(lambda view: np.copyto(view, image[None] / np.float32(128) - 1))
        logits = (features * keep / (1 - rate)) @ weights.T + bias
        wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(sampled.stored(image[None])[:, 0], wanted, atol=2e-6)
        np.testing.assert_allclose(scores, Classifier.open(bundle).raw(image[None]), atol=1e-7)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_int8_suffix_drops_what_the_float_suffix_drops(
    tiny_int8, tiny_float, tmp_path, tiny_images, depth
):
    passes = []
    for name, model in (("int8", tiny_int8), ("float", tiny_float)):
        bundle = write_bundle(tmp_path / name, describe_model(model, labels=LABELS), model=model)
        stored = DropoutPasses(bundle, 16, rate=0.1, depth=depth, seed=1).stored(tiny_images[:10])
        passes.append(Classifier.open(bundle).scores.real(stored))
    assert np.abs(passes[0] - passes[1]).mean() < 0.02
    spread = passes[1].std(axis=0).mean()
    assert spread > 0.02 and passes[0].std(axis=0).mean() == pytest.approx(spread, rel=0.25)


def test_the_same_seed_gives_the_same_passes_whatever_stands_beside_an_image(tiny_bundle, tiny_images):
    update_bundle(open_bundle(tiny_bundle), dropout=Dropout(0.3, 2))
    bundle = open_bundle(tiny_bundle)
    for sampling in (Sampling(mc=8), Sampling(tta=12), Sampling(mc=4, tta=3)):
        one, two = (Sampler([bundle], sampling) for _ in range(2))
        together = one.sample(tiny_images)
        assert together.shape == (sampling.passes, len(tiny_images), 4)
        assert together.tobytes() == two.sample(tiny_images).tobytes()
        np.testing.assert_array_equal(two.sample(tiny_images[3:4]), together[:, 3:4])
    other = Sampler([bundle], Sampling(mc=8, seed=1)).sample(tiny_images)
    assert not np.array_equal(other, Sampler([bundle], Sampling(mc=8)).sample(tiny_images))


def test_one_pass_has_variance_0(tiny_bundle, tiny_images):
    update_bundle(open_bundle(tiny_bundle), dropout=Dropout(0.3))
    found = measures.measures(Sampler([open_bundle(tiny_bundle)], Sampling(mc=1)).sample(tiny_images))
    assert not found["variance"].any() and not found["mutual_information"].any()


def test_views_are_the_symmetries_of_the_square_then_their_colours():
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    seen = views(image, 20, seed=4)
    for k in range(8):
        turned = np.rot90(image, k % 4, axes=(1, 2))
        np.testing.assert_array_equal(seen[:, k], turned if k < 4 else turned[:, :, ::-1])
    assert len({view.tobytes() for view in seen[0]}) == 20
    assert np.abs(seen[:, 8:16].astype(int) - seen[:, :8]).max() <= 0.06 * 255 + 8 + 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_views_are_classified_one_by_one(tiny_bundle, tiny_images, threads):
    found = Sampler([open_bundle(tiny_bundle)], Sampling(tta=8), threads=threads).sample(tiny_images[:3])
    classifier = Classifier.open(tiny_bundle)
    for k in range(8):
        np.testing.assert_array_equal(found[k], classifier.predict(views(tiny_images[:3], 8)[:, k]))


@pytest.mark.parametrize("kernels", ["default", "reference"])
@pytest.mark.parametrize("count", [3, 8, 10])
def test_threads_change_no_bit_of_a_view(any_bundle, tiny_images, kernels, count):
    found = [
        Sampler([any_bundle], Sampling(tta=count), kernels=kernels, threads=threads).sample(tiny_images[:3])
        for threads in (1, 2, 4)
    ]
    assert found[0].shape == (count, 3, len(LABELS))
    assert all(one.tobytes() == found[0].tobytes() for one in found[1:])


def test_a_file_that_reshapes_to_one_image_takes_views_and_dropout_too(tmp_path, tiny_images):
    """MobileNet v1 of the TensorFlow zoo ends so: its batch cannot be grown by asking for it."""
    net = net_models.Net((32, 32, 3), 4)
    at = net.conv(net.conv(net.at, 8, stride=(2, 2)), 16, stride=(2, 2))
    at = net.conv(net.pool("AVERAGE_POOL_2D", at, (8, 8), (8, 8)), 4, (1, 1), activation=0)
    model = net.finish(net.softmax(net.reshape(at, (1, 4))))
    bundle = write_bundle(tmp_path / "zoo", describe_model(model, labels=LABELS), model=model)
    classifier = Classifier.open(bundle)
    with pytest.raises(BackendError):
        Classifier.open(bundle, batch=8)
    found = Sampler([bundle], Sampling(tta=8), threads=2).sample(tiny_images[:3])
    for k in range(8):
        np.testing.assert_array_equal(found[k], classifier.predict(views(tiny_images[:3], 8)[:, k]))
    kept = Sampler([bundle], Sampling(mc=5, rate=0.0, depth=1)).sample(tiny_images[:3])
    assert all(np.array_equal(one, classifier.predict(tiny_images[:3])) for one in kept)
    dropped = Sampler([bundle], Sampling(mc=5, rate=0.4, depth=1)).sample(tiny_images[:3])
    assert dropped.std(axis=0).max() > 0


def test_an_ensemble_is_the_passes_of_its_members(tiny_bundle, tiny_uint8, tmp_path, tiny_images):
    other = write_bundle(tmp_path / "u", describe_model(tiny_uint8, labels=LABELS), model=tiny_uint8)
    both = Sampler([open_bundle(tiny_bundle), other], Sampling()).sample(tiny_images)
    np.testing.assert_array_equal(both[0], Classifier.open(tiny_bundle).predict(tiny_images))
    np.testing.assert_array_equal(both[1], Classifier.open(other).predict(tiny_images))
    stranger = write_bundle(tmp_path / "s", describe_model(tiny_uint8, labels="abcd"), model=tiny_uint8)
    with pytest.raises(BundleError) as refused:
        Sampler([other, stranger], Sampling())
    assert refused.value.code == "labels-differ"


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(2, 6), st.sampled_from([1, 2, 4, 1000]), st.integers(0, 2**31))
def test_measures_of_one_image_are_those_it_has_among_others(passes, classes, grid, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, grid + 1, (passes, 3, classes))
    counts[counts.sum(axis=2) == 0] = 1
    p = counts / counts.sum(axis=2, keepdims=True)
    together = measures.measures(p)
    for image in range(3):
        for name, value in measures.measures(p[:, image : image + 1]).items():
            assert value[0] == pytest.approx(together[name][image], abs=1e-12)


def test_what_is_cut_is_checked_and_what_cannot_be_cut_is_refused(tiny_int8, tiny_bundle):
    parts = cut(tiny_int8, rate=0.2, depth=2, passes=3)
    for part in (parts.prefix, parts.suffix):
        check_model(part)
    assert parts.channels == (8, 16)
    with pytest.raises(ModelError) as refused:
        cut(tiny_int8, rate=0.2, depth=9, passes=3)
    assert refused.value.code == "cut-depth"
    with pytest.raises(BundleError) as unknown:
        DropoutPasses(open_bundle(tiny_bundle), 4)
    assert unknown.value.code == "dropout-unknown"


def test_predict_tells_the_measures_of_its_passes(tiny_bundle, tmp_path):
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))
    call = [
        sys.executable,
        "-c",
        "from edge_derm.cli import main; main()",
        "predict",
        str(tiny_bundle),
        str(picture),
    ]
    told = {}
    for name, options in (
        ("plain", []),
        ("mc", ["--mc", "16", "--dropout", "0.3"]),
        ("off", ["--mc", "4", "--dropout", "0"]),
    ):
        done = subprocess.run([*call, *options, "--json", "-"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (told[name],) = json.loads(done.stdout)
    assert told["plain"]["variance"] is None and told["plain"]["bhattacharyya"] is None
    assert told["mc"]["variance"] > 0 and 0 <= told["mc"]["bhattacharyya"] <= 1 and told["mc"]["passes"] == 16
    assert told["off"]["variance"] == 0 and told["off"]["probabilities"] == told["plain"]["probabilities"]
    refused = subprocess.run([*call, "--mc", "4"], capture_output=True, text=True)
    assert refused.returncode == 1 and "--dropout" in refused.stderr


@pytest.mark.slow
def test_the_masks_stand_where_dropout_stood_in_training():
    """Keras' own forward pass with the same masks, against the suffix cut from the exported file."""
    architecture = pytest.importorskip(
        "edge_derm.modeling.architecture", reason="TensorFlow is not installed"
    )
    import keras

    from edge_derm.modeling import export, interface

    keras.utils.set_random_seed(0)
    model = architecture.build({"dw1": 2}, size_px=32, classes=4, dropout=0.4, dropout_depth=3)
    for layer in model.layers:  # as trained: features of some size
        if layer.name.endswith("_bn"):
            layer.set_weights(
                [w + 0.1 * np.random.default_rng(1).random(w.shape) for w in layer.get_weights()]
            )
    assert interface.dropout_of(model) == (0.4, 3)
    assert interface.dropout_of(architecture.build(size_px=32, classes=4, dropout=0)) is None
    parts = cut(export.export(model, recipe="float32").model, rate=0.4, depth=3, passes=6)
    prefix, suffix = load_engine(parts.prefix), load_engine(parts.suffix)
    image = np.random.default_rng(2).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    activation = prefix.run(lambda view: np.copyto(view, image))[0]
    masks = [
        ((np.random.default_rng(k).random((6, channels)) >= 0.4) / 0.6).astype(np.float32)
        for k, channels in enumerate(parts.channels)
    ]

    def write(view, *holes):
        np.copyto(view, activation)
        for hole, mask in zip(holes, masks):
            np.copyto(hole, mask.reshape(hole.shape))

    found = suffix.run(write)[0]
    x, number = np.repeat(image, 6, axis=0), 0
    for layer in model.layers[1:]:
        if isinstance(layer, keras.layers.Dropout):
            mask = masks[number]
            x, number = x * (mask[:, None, None] if len(x.shape) == 4 else mask), number + 1
        else:
            x = layer(x, training=False)
    assert number == 3
    np.testing.assert_allclose(found, np.asarray(x), atol=2e-5)

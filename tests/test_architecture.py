"""The arithmetic of MobileNet v1 and its dilated variants, written out."""

import numpy as np
import pytest

from edge_derm.errors import ModelError
from edge_derm.modeling import stages

keras = pytest.importorskip("keras", reason="Keras is not installed")
from edge_derm.modeling import architecture, pretrained  # noqa: E402

# (input channels, output channels, side after, stride) of each depthwise + pointwise pair at alpha 1 and 224 px.
PAIRS = [
    (32, 64, 112),
    (64, 128, 56),
    (128, 128, 56),
    (128, 256, 28),
    (256, 256, 28),
    (256, 512, 14),
    *[(512, 512, 14)] * 5,
    (512, 1024, 7),
    (1024, 1024, 7),
]


def test_parameters_and_macs_of_the_full_network_by_hand():
    convolutions = 3 * 3 * 3 * 32 + sum(9 * a + a * b for a, b, _ in PAIRS)
    scales_and_shifts = 2 * 32 + sum(2 * a + 2 * b for a, b, _ in PAIRS)
    assert stages.parameters(1.0, 1000) == convolutions + scales_and_shifts + 1024 * 1000 + 1000 == 4_231_976
    assert stages.parameters(1.0, 101) == 3_310_501
    macs = 112 * 112 * 27 * 32 + sum(s * s * (9 * a + a * b) for a, b, s in PAIRS) + 1024 * 1000
    assert stages.macs(1.0, 224, 1000) == macs == 568_740_352


@pytest.mark.parametrize(
    "dilation, expected", [({}, [3, 7, 11]), ({"dw1": 2}, [3, 11, 15]), ({"conv1": 2}, [5, 9, 13])]
)
def test_receptive_fields(dilation, expected):
    assert list(stages.receptive_fields(dilation).values())[:3] == expected


@pytest.mark.parametrize("variant", stages.VARIANTS)
@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_dilation_never_changes_parameters_or_shapes(variant, alpha):
    plain = architecture.build({}, alpha=alpha, size_px=64, classes=5)
    dilated = architecture.build(stages.dilation_map(variant), alpha=alpha, size_px=64, classes=5)
    assert [w.shape for w in plain.weights] == [w.shape for w in dilated.weights]
    assert [layer.output.shape for layer in plain.layers] == [layer.output.shape for layer in dilated.layers]
    trainable = sum(int(np.prod(w.shape)) for w in dilated.trainable_weights)
    assert trainable == stages.parameters(alpha, 5)


def test_the_receptive_field_is_what_the_arithmetic_says():
    """Which input pixels move the middle of dw1's output: measured, with all-positive weights."""
    model = architecture.build({"dw1": 2}, size_px=64, classes=2)
    model.set_weights([np.abs(w) + 0.01 for w in model.get_weights()])
    first = keras.Model(model.input, model.get_layer("conv_dw_1").output)
    base = np.zeros((1, 64, 64, 3), np.float32)
    middle = first(base).numpy()[0, 16, 16].sum()
    moved = []
    for column in range(64):
        image = base.copy()
        image[0, :, column] = 1e-2
        moved.append(first(image).numpy()[0, 16, 16].sum() != middle)
    columns = np.flatnonzero(
        moved
    )  # a dilated layer leaves gaps inside; the field is from the first to the last
    assert columns[-1] - columns[0] + 1 == stages.receptive_fields({"dw1": 2})["dw1"] == 11


def test_a_strided_dilated_first_layer_trains_and_reloads(tmp_path):
    model = architecture.build({"conv1": 2}, size_px=32, classes=3)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    assert np.array_equal(model(image).numpy(), again(image).numpy())


def test_equals_keras_mobilenet_layer_for_layer():
    reference = keras.applications.MobileNet((64, 64, 3), 0.25, include_top=False, weights=None)
    model = architecture.build({}, size_px=64, classes=3)
    for layer in reference.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    image = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    features = keras.Model(model.input, model.get_layer("conv_pw_13_relu").output)
    assert np.allclose(features(image).numpy(), reference(image).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "text, expected", [("dw1=2", {"dw1": 2}), ("dw1=2, dw3=4,", {"dw1": 2, "dw3": 4}), ("dw1=1", {})]
)
def test_free_maps_are_read(text, expected):
    assert stages.dilation_map("mobilenet", text) == expected


@pytest.mark.parametrize(
    "text, code",
    [
        ("dw1", "dilation-syntax"),
        ("dw1=2,dw1=3", "dilation-syntax"),
        ("dw1=x", "dilation-syntax"),
        ("dw14=2", "dilation-layer"),
        ("pw1=2", "dilation-layer"),
        ("dw1=99", "dilation-rate"),
        ("dw1=0", "dilation-rate"),
        ("dw2=2", "dilation-stride"),
    ],
)
def test_impossible_maps_are_refused_by_name(text, code):
    with pytest.raises(ModelError) as caught:
        stages.dilation_map("mobilenet", text)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "choice, code",
    [({"alpha": 0.1}, "alpha-range"), ({"size_px": 16}, "size-range"), ({"classes": 1}, "classes-range")],
)
def test_impossible_models_are_refused_by_name(choice, code):
    with pytest.raises(ModelError) as caught:
        architecture.build({}, **{"size_px": 32, "classes": 2, **choice})
    assert caught.value.code == code


def write_h5(path, model):
    """A weight file in the layout of Keras applications: layer_names, then weight_names in each group."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{i}".encode() for i in range(len(layer.weights))]
            group.attrs["weight_names"] = names
            for name, value in zip(names, layer.get_weights()):
                group[name.decode()] = value


def test_imagenet_weights_load_by_name_and_other_widths_are_refused(tmp_path):
    reference = keras.applications.MobileNet((32, 32, 3), 0.25, include_top=False, weights=None)
    write_h5(tmp_path / "w.h5", reference)
    model = architecture.build({"dw1": 2}, size_px=96, classes=3)
    pretrained.load_imagenet(model, tmp_path / "w.h5")
    assert np.array_equal(
        model.get_layer("conv_pw_13").get_weights()[0], reference.get_layer("conv_pw_13").get_weights()[0]
    )
    for wrong, code in (
        (tmp_path / "absent.h5", "weights-missing"),
        (tmp_path / "text.h5", "weights-broken"),
    ):
        (tmp_path / "text.h5").write_text("x")
        with pytest.raises(ModelError) as caught:
            pretrained.load_imagenet(model, wrong)
        assert caught.value.code == code
    with pytest.raises(ModelError, match="alpha") as caught:
        pretrained.load_imagenet(architecture.build({}, alpha=0.5, size_px=32, classes=2), tmp_path / "w.h5")
    assert caught.value.code == "weights-shape"

"""Hardening keeps its perturbations in their balls, spares every second image, and an epoch stays a function of its number."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tensorflow as tf  # noqa: E402

from edge_derm.errors import ModelError  # noqa: E402
from edge_derm.modeling import architecture, hardening, pretrained  # noqa: E402

pytestmark = pytest.mark.slow

NOTHING = np.empty((0, 32, 32, 3), np.uint8)  # pictures, which a run's weights do not need


@pytest.fixture
def bank():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    return hardening.Bank(images, zeta=0.05, seed=3), images


def test_the_radii_are_a_share_of_the_mean_norms(bank):
    made, images = bank
    assert made.radii[0] == pytest.approx(0.05 * np.mean([int(i.max()) / 128 for i in images]))
    assert made.radii[1] == pytest.approx(
        0.05 * np.mean([np.linalg.norm(i.astype(float) / 128) for i in images])
    )


def test_steps_follow_the_slope_and_end_in_the_ball(bank):
    made, _ = bank
    made.begin(0)
    before = made.values.numpy()
    slope = np.random.default_rng(1).normal(size=(8, 8, 3)).astype(np.float32)
    for which in range(hardening.BANK):
        for _ in range(30):
            made.ascend(tf.constant(which), made.values[which], tf.constant(slope))
    after = made.values.numpy()
    for which, r in enumerate(after):
        assert (np.sign(r) == np.sign(slope)).all() and not np.array_equal(r, before[which])
        size = np.abs(r).max() if which % 2 == 0 else np.linalg.norm(r)
        assert size == pytest.approx(made.radii[which % 2], rel=1e-5)


def test_every_second_image_stays_clean_and_all_stay_valid(bank):
    made, images = bank
    inputs = images.astype(np.float32) / 128 - 1
    out = made.add(tf.constant(inputs), tf.fill((8, 8, 3), 0.5)).numpy()
    np.testing.assert_array_equal(out[::2], inputs[::2])
    np.testing.assert_allclose(out[1::2], np.clip(inputs[1::2] + 0.5, -1, 127 / 128))


def test_each_epoch_starts_from_its_own_noise_whatever_came_before(bank):
    made, _ = bank
    made.begin(4)
    first = made.values.numpy()
    made.begin(5)
    other = made.values.numpy()
    made.begin(4)
    np.testing.assert_array_equal(made.values.numpy(), first)
    assert not np.array_equal(first, other)


def test_training_goes_on_from_a_run_of_the_same_shape_only(tmp_path):
    model = architecture.build({}, alpha=0.25, size_px=32, classes=3)
    model.save(tmp_path / "a.keras")
    fresh = architecture.build({}, alpha=0.25, size_px=32, classes=3)
    pretrained.start_from(fresh, tmp_path / "a.keras", NOTHING)
    for a, b in zip(model.get_weights(), fresh.get_weights()):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ModelError) as caught:
        pretrained.start_from(
            architecture.build({}, alpha=0.25, size_px=32, classes=4), tmp_path / "a.keras", NOTHING
        )
    assert caught.value.code == "weights-shape"

"""Channels, corruptions, defences and the detector do what their names say, and their figures are arithmetic."""

import math

import cv2
import numpy as np
import pytest

from edge_derm.errors import DataError
from edge_derm.trust import attack, channels, corruptions, defences, detector
from linear_classifier import Linear
from pictures import varied_images


@pytest.mark.parametrize("name", sorted({**channels.CHANNELS, **channels.DEFENCES}))
@pytest.mark.parametrize("side", [6, 32, 33])
def test_a_channel_gives_an_image_of_the_same_size_and_leaves_its_input_alone(name, side):
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    before = image.copy()
    out = {**channels.CHANNELS, **channels.DEFENCES}[name](image)
    assert out.dtype == np.uint8 and out.shape == image.shape and not np.array_equal(out, image)
    np.testing.assert_array_equal(image, before)
    flat = np.full_like(image, 128)
    seen = {**channels.CHANNELS, **channels.DEFENCES}[name](flat).astype(int)
    assert np.abs(seen - 128).max() <= (13 if name == "colour cast" else 18 if "bits" in name else 1)


def test_channels_keep_rgb_apart():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    for name, channel in channels.CHANNELS.items():
        assert channel(red)[..., 0].mean() > 180 and channel(red)[..., 2].mean() < 20, name


def test_a_shift_moves_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(channels.shifted(2, -3)(image)[:7, 3:], image[2:, :6])


def test_bits_leave_so_many_levels():
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for count in (1, 3, 8):
        assert len(np.unique(channels.bits(count)(ramp))) == 2**count
    np.testing.assert_array_equal(channels.bits(8)(ramp), ramp)


@pytest.mark.parametrize("name", sorted(corruptions.CORRUPTIONS))
def test_corruptions_are_worse_the_more_severe_and_repeatable(name):
    images = np.stack([cv2.resize(image, (64, 64)) for image in varied_images(12)])
    harm = []
    for severity in corruptions.SEVERITIES:
        made = corruptions.corrupt(images, name, severity, seed=1)
        assert made.dtype == np.uint8 and made.shape == images.shape
        np.testing.assert_array_equal(made[:3], corruptions.corrupt(images[:3], name, severity, seed=1))
        harm.append(float(((made.astype(float) - images) ** 2).mean()))
    assert harm[0] > 0 and all(b > a for a, b in zip(harm, harm[1:])), harm


def test_corruption_errors_by_arithmetic_written_out():
    images, model = varied_images(20)[:, ::5, ::5][:, :6, :6], Linear()
    images = np.ascontiguousarray(images)
    targets = model.predict(images).argmax(1)
    targets[:4] = (targets[:4] + 1) % 4
    answers = {"a": lambda x: model.predict(x).argmax(1), "b": lambda x: model.predict(x * 0.7).argmax(1)}
    record = corruptions.errors(answers, images, targets, seed=2)
    assert record["clean"]["a"]["value"] == 4 / 20
    assert len(record["rows"]) == 7 * 5 * 2
    by_hand, ratios = {"a": [], "b": []}, []
    for name in corruptions.CORRUPTIONS:
        total = {"a": 0.0, "b": 0.0}
        for severity in range(1, 6):
            made = corruptions.corrupt(images, name, severity, seed=2).astype(np.float32)
            for where, answer in answers.items():
                error = (answer(made) != targets).mean()
                by_hand[where].append(error)
                total[where] += error
        ratios.append(total["b"] / total["a"])
    assert record["mean_error"]["b"] == pytest.approx(np.mean(by_hand["b"]))
    assert record["relative"] == {"a": pytest.approx(1), "b": pytest.approx(np.mean(ratios))}


@pytest.fixture
def attacked():
    images, model = np.random.default_rng(3).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8), Linear(
        size_px=16
    )
    radius = attack.radius_of(images, norm=math.inf, zeta=0.04)
    made = attack.craft(
        images[:30], predict=model.predict, gradient=model.gradient, norm=math.inf, radius=radius
    )
    return images, model, made


def test_a_defence_is_judged_by_what_it_leaves_of_the_perturbation_and_what_it_costs(attacked):
    images, model, made = attacked
    targets = np.random.default_rng(0).integers(0, 4, 60)
    rows = defences.through(
        {"blur": channels.blurred(2.0)},
        {"training": [made]},
        images=images,
        targets=targets,
        answer=lambda x: model.predict(x).argmax(1),
    )
    assert [row["channel"] for row in rows] == ["none", "blur"]
    blur = channels.blurred(2.0)
    says = lambda x: model.predict(np.stack([blur(i) for i in x])).argmax(1)  # noqa: E731
    rounded = np.rint(attack.add(images, made.pixels)).astype(np.uint8)
    assert rows[1]["fooling_rate"]["value"] == (says(rounded) != says(images)).mean()
    assert rows[1]["clean_changed"] == (says(images) != model.predict(images).argmax(1)).mean()
    assert rows[0]["clean_changed"] == 0 and rows[0]["fooling_rate"]["value"] > 0.2


def test_an_attacker_who_knows_of_the_channel_sees_the_model_behind_it(attacked):
    images, model, made = attacked
    blur = channels.blurred(2.0)
    predict, gradient = defences.hidden_behind(blur, model.predict, model.gradient)
    pixels, labels = attack.add(images[:9], made.pixels), np.arange(9) % 4
    seen = np.stack([blur(np.rint(i).astype(np.uint8)) for i in pixels]).astype(np.float32)
    np.testing.assert_array_equal(predict(pixels), model.predict(seen))
    for found, expected in zip(gradient(pixels, labels), model.gradient(seen, labels), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_detector_flags_what_it_knows_and_few_clean_images(attacked, tmp_path):
    _, _, made = attacked
    rng = np.random.default_rng(0)
    smooth = np.stack(
        [cv2.GaussianBlur(i, (0, 0), 2) for i in rng.integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)]
    )
    fitted = detector.fit([made], smooth[:200], false_alarms=0.05)
    assert (fitted.score(smooth[:200]) > fitted.threshold).sum() <= 10
    assert fitted.flags(smooth[200:]).mean() < 0.15
    carrying = np.rint(attack.add(smooth[200:], made.pixels)).astype(np.uint8)
    assert fitted.flags(carrying).mean() > 0.95
    noise = attack.control(made.pixels.shape, norm=math.inf, radius=made.radius, kind="signs")
    assert fitted.flags(np.rint(attack.add(smooth[200:], noise.pixels)).astype(np.uint8)).mean() < 0.4
    fitted.save(tmp_path / "detector.npz")
    again = detector.Detector.load(tmp_path / "detector.npz")
    np.testing.assert_array_equal(again.score(carrying), fitted.score(carrying))
    assert again.threshold == fitted.threshold


def test_a_detector_is_judged_on_what_it_knows_and_on_what_it_does_not(attacked):
    images, model, made = attacked
    other = attack.craft(
        images[30:],
        predict=model.predict,
        gradient=model.gradient,
        norm=2,
        radius=attack.size_of(made.pixels, 2),
    )
    still = attack.Perturbation(np.zeros_like(made.pixels), 2, 1.0, None)
    crafted = {"training": [made, still], "natural": [other]}
    record = detector.judge(
        crafted, material=images[:30], images=images[30:], channels={"blur": channels.blurred(3)}
    )
    assert record["directions"] == 2 and [row["source"] for row in record["rows"]] == ["training", "natural"]
    alone = detector.fit([other], images[:30])
    seen = np.rint(attack.add(images[30:], made.pixels)).astype(np.uint8)
    assert record["rows"][0]["unknown"]["value"] == alone.flags(seen).mean()
    both = detector.fit([made, other], images[:30])
    assert record["rows"][0]["known"]["value"] == both.flags(seen).mean()
    assert record["false_alarms"]["value"] == both.flags(images[30:]).mean()
    blurred = np.stack([channels.blurred(3)(i) for i in seen])
    assert record["rows"][0]["through"] == {"blur": both.flags(blurred).mean()}
    assert detector.judge({"training": [still]}, material=images, images=images)["reason"]


def test_the_detector_refuses_what_it_cannot_use(attacked, tmp_path):
    images, _, made = attacked
    still = attack.Perturbation(np.zeros_like(made.pixels), 2, 1.0, None)
    cases = {
        "audit-empty": lambda: detector.fit([still], images),
        "audit-shape": lambda: detector.fit([made], images).flags(np.zeros((2, 8, 8, 3), np.uint8)),
        "detector-broken": lambda: detector.Detector.load(tmp_path / "none.npz"),
    }
    (tmp_path / "text.npz").write_text("x")
    for code, call in cases.items():
        with pytest.raises(DataError) as caught:
            call()
        assert caught.value.code == code
    with pytest.raises(DataError):
        detector.Detector.load(tmp_path / "text.npz")

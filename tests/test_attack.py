"""Universal perturbations keep their norm, follow the paper's algorithm, and never see a true label."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.errors import DataError
from edge_derm.trust import attack
from linear_classifier import Linear

NORMS = (2, math.inf)


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(1e-3, 1e5),
    st.floats(1e-4, 1e4),
    st.sampled_from(NORMS),
    st.integers(1, 500),
)
def test_projection_never_leaves_the_ball_not_even_by_a_rounding(seed, scale, radius, norm, values):
    r = (np.random.default_rng(seed).normal(0, scale, (values,))).astype(np.float32)
    inside = attack.project(r, norm=norm, radius=radius)
    exact = (
        math.sqrt(math.fsum(float(v) ** 2 for v in inside))
        if norm == 2
        else max(abs(float(v)) for v in inside)
    )
    assert exact <= radius * (1 + 1e-15) and inside.dtype == np.float32
    if attack.size_of(r, norm) > radius:
        assert exact >= radius * (1 - 1e-5)  # on the surface, not shrunk away
    else:
        np.testing.assert_array_equal(inside, r)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_crafted_perturbation_keeps_its_norm_and_beats_noise_of_the_same_norm(images, norm, target, batch):
    model, radius = Linear(), attack.radius_of(images, norm=norm, zeta=0.04)
    made = attack.craft(
        images,
        predict=model.predict,
        gradient=model.gradient,
        norm=norm,
        radius=radius,
        target=target,
        batch=batch,
    )
    assert 0 < attack.size_of(made.pixels, norm) <= radius
    clean = model.predict(images).argmax(1)
    answers = model.predict(attack.add(images, made.pixels)).argmax(1)
    moved = attack.accept(answers, clean, target).mean()
    assert moved == max(made.history)
    for kind in attack.controls_of(norm):
        noise = attack.control(images.shape[1:], norm=norm, radius=radius, kind=kind)
        by_noise = model.predict(attack.add(images, noise.pixels)).argmax(1)
        assert moved > attack.accept(by_noise, clean, target).mean()


@pytest.mark.parametrize("norm", NORMS)
def test_an_attacker_who_does_not_mind_the_way_moves_no_fewer_images(images, norm):
    model, radius = Linear(), attack.radius_of(images, norm=norm, zeta=0.02)
    both = {"predict": model.predict, "gradient": model.gradient, "norm": norm, "radius": radius}
    clean = model.predict(images).argmax(1)

    def moved(made):
        return (model.predict(attack.add(images, made.pixels)).argmax(1) != clean).mean()

    plain, free = attack.craft(images, **both), attack.craft_any(images, **both)
    assert moved(free) >= moved(plain) and free.target is None and plain.aim is None
    assert attack.size_of(free.pixels, norm) <= radius
    if free.aim is None:
        np.testing.assert_array_equal(free.pixels, plain.pixels)
    else:
        aimed = attack.craft(images, target=free.aim, **both)
        np.testing.assert_array_equal(free.pixels, aimed.pixels)
        assert free.history == (moved(aimed),)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("target", [None, 1])
def test_a_batch_of_one_is_the_papers_loop(images, norm, target):
    model, radius, share = Linear(seed=1), attack.radius_of(images, norm=norm, zeta=0.03), 0.5
    made = attack.craft(
        images, predict=model.predict, gradient=model.gradient, norm=norm, radius=radius, target=target,
        batch=1, passes=1, share=share, seed=9, confidence=0,
    )  # fmt: skip
    size = share * (radius if norm == math.inf else radius / math.sqrt(images[0].size))
    r = np.zeros((6, 6, 3))
    says = lambda x: int(model.predict(np.clip(x, 0, 255)[None])[0].argmax())  # noqa: E731
    for x in images[np.random.default_rng(9).permutation(len(images))].astype(np.float64):
        label = says(x)
        if (says(x + r) == label) if target is None else (says(x + r) != target):
            slope = model.gradient(
                np.clip(x + r, 0, 255)[None], np.array([label if target is None else target])
            )[1][0]
            new = r + size * np.sign(slope) * (1 if target is None else -1)
            if (says(x + new) != label) if target is None else (says(x + new) == target):
                length = np.linalg.norm(new) if norm == 2 else None
                r = np.clip(new, -radius, radius) if norm == math.inf else new * min(1, radius / length)
    np.testing.assert_allclose(made.pixels, r, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("batch", [5, 16])
@pytest.mark.parametrize("confidence", [0, 0.6])
def test_a_batch_is_the_sign_of_the_sum_of_its_steps(images, norm, target, batch, confidence):
    """Written out, answers first and slopes for those that need them, whatever ``craft`` asks for in one."""
    model, radius = Linear(seed=1), attack.radius_of(images, norm=norm, zeta=0.1)
    made = attack.craft(
        images, predict=model.predict, gradient=model.gradient, norm=norm, radius=radius, target=target,
        batch=batch, passes=1, seed=9, confidence=confidence,
    )  # fmt: skip
    size = 0.2 * (radius if norm == math.inf else radius / math.sqrt(images[0].size))
    order, r, waited, refused = np.random.default_rng(9).permutation(40), np.zeros((6, 6, 3)), [], 0
    says = lambda x: model.predict(np.clip(x, 0, 255)[None])[0]  # noqa: E731
    for rows in (order[i : i + batch] for i in range(0, 40, batch)):
        steps = []
        for x in images[rows].astype(np.float64):
            label = int(says(x).argmax()) if target is None else target
            p = says(x + r)
            there = (p.argmax() == label) == (target is not None)
            waited.append(not (there and (p[label] if target is not None else 1 - p[label]) >= confidence))
            slope = model.gradient(np.clip(x + r, 0, 255)[None], np.array([label]))[1][0]
            new = size * np.sign(slope) * (1 if target is None else -1)
            flips = (says(x + r + new).argmax() == label) == (target is not None)
            refused += waited[-1] and not flips
            if waited[-1] and (flips or confidence > 0):
                steps.append(new)
        if steps:
            r = r + size * np.sign(np.round(np.sum(steps, axis=0) / size))
            r = np.clip(r, -radius, radius) if norm == math.inf else r * min(1, radius / np.linalg.norm(r))
    assert any(waited) and not all(waited) and refused
    np.testing.assert_allclose(made.pixels, r, rtol=1e-5, atol=1e-5)


def test_a_single_pass_asks_for_nothing_that_it_does_not_need(images):
    model, seen = Linear(), []

    def predict(pixels):
        seen.append(len(pixels))
        return model.predict(pixels)

    choices = {"predict": predict, "gradient": model.gradient, "norm": math.inf, "radius": 1e-3, "passes": 1}
    attack.craft(images, target=1, **choices)  # too weak to make any sure: slopes come with their answers
    assert sum(seen) == 0 and sum(map(len, model.asked)) == 40
    attack.craft(images, **choices)
    assert sum(seen) == 40  # the clean answers, where there is no target
    seen.clear()
    attack.craft(images, confidence=0, **choices)
    assert sum(seen) == 40 + 40  # and whether its step flips it


def test_crafting_ends_once_enough_of_the_images_were_moved_as_they_came():
    images = np.random.default_rng(3).integers(0, 256, (600, 6, 6, 3), dtype=np.uint8)
    model, radius = Linear(), attack.radius_of(images, norm=2, zeta=0.2)
    given = {"predict": model.predict, "gradient": model.gradient, "norm": 2, "radius": radius, "target": 1}
    whole, never = (attack.craft(images, passes=passes, **given) for passes in (1, 2))
    early = attack.craft(images, passes=2, enough=0.9, **given)
    assert len(never.history) == 2 and len(early.history) == 1
    assert not np.array_equal(early.pixels, whole.pixels)  # ended within the first pass
    last = images[np.random.default_rng(0).permutation(600)[-100:]]  # which it never came to
    assert (model.predict(attack.add(last, early.pixels)).argmax(1) == 1).mean() > 0.85
    few = attack.craft(images[: attack.LATEST - 1], passes=2, enough=0, **given)
    assert len(few.history) == 2  # too few to tell


def test_confidence_makes_a_perturbation_hold_for_images_it_was_not_made_from():
    rng, model = np.random.default_rng(8), Linear(seed=2)
    made_from, others = rng.integers(0, 256, (2, 150, 6, 6, 3), dtype=np.uint8)
    radius = attack.radius_of(others, norm=math.inf, zeta=0.12)
    rates = []
    for confidence in (0, 0.95):
        made = attack.craft(
            made_from[:12], predict=model.predict, gradient=model.gradient, norm=math.inf, radius=radius, target=1,
            passes=8, batch=4, confidence=confidence,
        )  # fmt: skip
        rates.append((model.predict(attack.add(others, made.pixels)).argmax(1) == 1).mean())
    assert rates[1] > rates[0]


def test_crafting_asks_only_for_the_models_own_answers(images):
    model = Linear()
    attack.craft(
        images, predict=model.predict, gradient=model.gradient, norm=math.inf, radius=5, seed=4, batch=40
    )
    clean = model.predict(images).argmax(1)
    order = np.random.default_rng(4).permutation(40)
    np.testing.assert_array_equal(model.asked[0], clean[order])


@pytest.mark.parametrize("kind,norm", [("direction", 2), ("signs", math.inf), ("box", math.inf)])
def test_a_control_has_the_norm_of_what_it_is_set_against(kind, norm):
    drawn = [attack.control((16, 16, 3), norm=norm, radius=7.3, kind=kind, seed=i) for i in range(20)]
    for r in drawn:
        assert 7.3 * (1 - 1e-6) <= attack.size_of(r.pixels, norm) <= 7.3
    assert not np.array_equal(drawn[0].pixels, drawn[1].pixels)
    if kind == "signs":
        assert np.ptp(np.abs(drawn[0].pixels)) == 0
    if kind == "direction":  # no coordinate is preferred
        mean = np.mean([r.pixels for r in drawn], axis=0)
        assert np.abs(mean).max() < 5 * 7.3 / math.sqrt(768) / math.sqrt(20)


def test_the_radius_is_a_share_of_the_mean_norm(images):
    assert attack.radius_of(images, norm=math.inf, zeta=0.04) == pytest.approx(
        0.04 * np.mean([int(i.max()) for i in images])
    )
    lengths = [math.sqrt(sum(int(v) ** 2 for v in i.ravel())) for i in images]
    assert attack.radius_of(images, norm=2, zeta=0.1) == pytest.approx(0.1 * sum(lengths) / len(lengths))


def test_a_model_that_always_says_the_same_is_not_moved_and_does_not_break(images):
    model = Linear()
    model.weights[:], model.bias[:] = 0, [0, 9, 0, 0]
    for target in (None, 1, 2):
        made = attack.craft(
            images, predict=model.predict, gradient=model.gradient, norm=2, radius=50, target=target
        )
        assert not made.pixels.any() and set(made.history) == {1.0 if target == 1 else 0.0}


@pytest.mark.parametrize("count", [1, 3])
def test_three_proxy_images_or_a_grey_one_are_enough_to_try(images, count):
    model = Linear()
    few = images[:count].copy()
    few[0] = 128
    made = attack.craft(few, predict=model.predict, gradient=model.gradient, norm=math.inf, radius=8)
    assert made.images == count and np.isfinite(made.pixels).all()
    assert attack.size_of(made.pixels, math.inf) <= 8


@pytest.mark.parametrize(
    "change,code",
    [
        ({"images": np.empty((0, 6, 6, 3), np.uint8)}, "audit-empty"),
        ({"norm": 1}, "audit-norm"),
        ({"radius": 0.0}, "audit-radius"),
        ({"radius": math.nan}, "audit-radius"),
    ],
)
def test_what_cannot_be_crafted_is_refused_in_one_line(images, change, code):
    model = Linear()
    choices = {"images": images, "norm": 2, "radius": 9.0, **change}
    with pytest.raises(DataError) as caught:
        attack.craft(choices.pop("images"), predict=model.predict, gradient=model.gradient, **choices)
    assert caught.value.code == code and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(5, 5, 3), (1, 1, 3), (7, 6, 3)])
def test_a_perturbation_of_another_size_is_never_stretched(shape):
    with pytest.raises(DataError) as caught:
        attack.add(np.zeros((2, *shape), np.uint8), np.zeros((6, 6, 3), np.float32))
    assert caught.value.code == "audit-shape"

"""The audit's figures are what they say, and the command gives them for the file that is deployed."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import scipy.ndimage

from edge_derm import cli
from edge_derm.trust import attack, audit
from linear_classifier import Linear

LABELS = ("a", "b", "c", "d")


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (60, 6, 6, 3), dtype=np.uint8)


def rows_of(images, targets, model, *, controls=None, seed=0):
    radius = attack.radius_of(images, norm=math.inf, zeta=0.04)
    choices = dict(predict=model.predict, gradient=model.gradient, norm=math.inf, radius=radius)
    crafted = {"training": [attack.craft(images[:30], target=t, **choices) for t in (None, 2)]}
    kinds = controls or attack.controls_of(math.inf)
    drawn = {
        kind: [
            attack.control(images.shape[1:], norm=math.inf, radius=radius, kind=kind, seed=i)
            for i in range(3)
        ]
        for kind in kinds
    }
    rows = audit.compare(
        crafted, drawn, images=images, targets=targets, labels=LABELS, groups=[str(i // 2) for i in range(60)],
        zeta=0.04, where="numpy", answer=lambda x: model.predict(x).argmax(1), seed=seed,
    )  # fmt: skip
    return rows, crafted, drawn


def test_every_figure_by_arithmetic_written_out(images):
    model, targets = Linear(), np.random.default_rng(0).integers(0, 4, 60)
    (free, aimed), crafted, drawn = rows_of(images, targets, model)
    clean = model.predict(images).argmax(1)
    answers = [model.predict(attack.add(images, r.pixels)).argmax(1) for r in crafted["training"]]
    assert free["fooling_rate"]["value"] == sum(a != c for a, c in zip(answers[0], clean)) / 60
    assert free["success_rate"] is None and free["targeted"] is None and free["norm"] == "inf"
    # Rs is over all images, those that had the label anyway included; its baseline says how many those are
    assert aimed["success_rate"]["value"] == list(answers[1]).count(2) / 60
    assert aimed["success_baseline"] == list(clean).count(2) / 60 > 0
    assert aimed["success_rate"]["n"] == 60
    by_noise = {
        kind: np.mean(
            [
                [a != c for a, c in zip(model.predict(attack.add(images, r.pixels)).argmax(1), clean)]
                for r in rs
            ]
        )
        for kind, rs in drawn.items()
    }
    assert free["controls"] == pytest.approx(by_noise)
    assert free["control"]["fooling_rate"]["value"] == pytest.approx(max(by_noise.values()))
    assert free["control"]["kind"] == max(by_noise, key=by_noise.get)
    gap = free["fooling_rate"]["value"] - max(by_noise.values())
    assert free["over_control"]["value"] == pytest.approx(gap)
    assert free["over_control"]["low"] < gap < free["over_control"]["high"]
    assert free["accuracy"]["clean"]["value"] == (clean == targets).mean()
    assert free["accuracy"]["perturbed"]["value"] == (answers[0] == targets).mean()
    assert aimed["dominant"][LABELS[2]] == pytest.approx(list(answers[1]).count(2) / 60)
    assert sum(free["dominant"].values()) == pytest.approx(1)


def test_true_labels_change_accuracies_and_nothing_else(images):
    rng, model = np.random.default_rng(1), Linear()
    one, crafted, _ = rows_of(images, rng.integers(0, 4, 60), model)
    two, again, _ = rows_of(images, rng.integers(0, 4, 60), model)
    for a, b in zip(crafted["training"], again["training"]):
        np.testing.assert_array_equal(a.pixels, b.pixels)
    for a, b in zip(one, two):
        assert a.pop("accuracy") != b.pop("accuracy")
        assert a == b


def test_a_model_that_always_says_the_same_has_rows_that_say_so(images):
    model = Linear()
    model.weights[:], model.bias[:] = 0, [0, 9, 0, 0]
    (free, aimed), _, _ = rows_of(images, np.zeros(60, int), model)
    assert free["fooling_rate"]["value"] == 0 and free["fooling_rate"]["high"] > 0
    assert free["times_control"]["value"] is None and free["times_control"]["reason"]
    assert aimed["success_rate"]["value"] == 0 and free["dominant"] == {"b": 1.0}


def test_a_gate_names_every_limit_that_is_broken_and_only_those(images):
    rows, _, _ = rows_of(images, np.zeros(60, int), Linear())
    worst = rows[0]["fooling_rate"]["value"]
    assert audit.check_gate(rows, {"max_fooling_rate": worst, "min_accuracy": 0.0}) is None
    error = audit.check_gate(
        rows, {"max_fooling_rate": worst - 0.01, "max_over_control": 1.0, "min_accuracy": 1.0}
    )
    assert error.code == "gate-failed" and "max_over_control" not in str(error)
    assert "max_fooling_rate: expected at most" in str(error) and "min_accuracy: expected at least" in str(
        error
    )
    error = audit.check_gate(rows[:1], {"max_success_rate": 1.0})
    assert "not measured" in str(error)


def test_few_images_and_a_model_that_says_one_thing_are_told(images):
    model = Linear()
    rows, _, _ = rows_of(images, np.zeros(60, int), model)
    assert audit.notes(rows, {"training": 500}) == []
    (note,) = audit.notes(rows, {"training": 500, "natural": 3})
    assert "natural" in note and "3 images" in note
    model.weights[:], model.bias[:] = 0, [0, 9, 0, 0]
    rows, _, _ = rows_of(images, np.zeros(60, int), model)
    (note,) = audit.notes(rows, {"training": 500})
    assert "numpy" in note and "says b" in note


def test_visibility_by_its_definitions():
    rng = np.random.default_rng(5)
    a = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    assert audit.psnr(a, b) == pytest.approx(20 * math.log10(255) - 10 * math.log10(error))
    assert audit.psnr(a, a) == 99.0 and audit.ssim(a, a) == pytest.approx(1)
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / np.outer(window, window).sum()
    values = []
    for channel in range(3):
        x, y = a[..., channel].astype(float), b[..., channel].astype(float)
        mean = lambda z: scipy.ndimage.correlate(z, window)[5:-5, 5:-5]  # noqa: E731
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = 6.5025, 58.5225
        values.append(((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    assert audit.ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["layer", "activation", "logits"])
def test_the_gradient_is_that_of_the_models_own_loss(ending):
    keras = pytest.importorskip("keras")
    from edge_derm.modeling.gradients import Differentiable

    rng = np.random.default_rng(0)
    layers = keras.layers
    parts = [
        keras.Input((32, 32, 3)),
        layers.Conv2D(8, 3, 2, activation="tanh"),
        layers.GlobalAveragePooling2D(),
    ]
    parts += [layers.Dense(4, activation="softmax" if ending == "activation" else None)]
    model = keras.Sequential(parts + ([layers.Softmax()] if ending == "layer" else []))
    model.set_weights([rng.normal(0, 0.6, w.shape) for w in model.get_weights()])
    both = Differentiable(model)
    pixels, labels = rng.uniform(20, 230, (70, 32, 32, 3)).astype(np.float32), rng.integers(0, 4, 70)
    p = both.predict(pixels)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    if ending != "logits":
        np.testing.assert_allclose(p, model(pixels / 128 - 1), atol=1e-5)
    again, slope = both.gradient(pixels, labels)
    np.testing.assert_allclose(again, p, atol=1e-5)
    way = np.sign(slope) * rng.uniform(0, 1, pixels.shape).astype(np.float32)
    loss = lambda x: -np.log(both.predict(x)[range(70), labels].astype(np.float64))  # noqa: E731
    seen = (loss(pixels + way) - loss(pixels - way)) / 2
    np.testing.assert_allclose(seen, (slope * way).sum(axis=(1, 2, 3)), rtol=0.02, atol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three epochs and its bundle."""
    pytest.importorskip("keras")
    from edge_derm import making

    folder = tmp_path_factory.mktemp("trained")
    making.train("synthetic:160", folder / "run", size_px=32, epochs=2)
    making.export(folder / "run", folder / "d.bundle", recipe="int8")
    return folder / "run", folder / "d.bundle"


QUICK = [
    "--data",
    "synthetic:160",
    "--target-class",
    "melanoma",
    "--zeta",
    "0.2",
    "--passes",
    "1",
    "--draws",
    "2",
]


def edge_derm(*arguments):
    """The command line in this process, which has TensorFlow loaded: exit status, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return left.value.code, out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_the_command_audits_a_run_on_every_place_it_may_be_deployed_to(trained, tmp_path):
    out = tmp_path / "audit.json"
    status, _, err = edge_derm("audit", trained[0], *QUICK, "--proxy", "synthetic:8", "--json", out)
    assert status == 0, err
    record = json.loads(out.read_text())
    assert {(r["source"], r["targeted"], r["norm"], r["where"]) for r in record["rows"]} == {
        (source, target, norm, where)
        for source in ("training", "natural")
        for target in (None, "melanoma")
        for norm in (2, "inf")
        for where in ("keras", "float32-xnnpack", "int8-xnnpack", "int8-reference")
    }
    assert record["passed"] is None and any("natural" in note for note in record["notes"])
    assert len(record["pictures"]) == 8 and {row["channel"] for row in record["channels"]["rows"]} >= {
        "none",
        "jpeg 50",
    }
    assert {row["where"] for row in record["corruptions"]["rows"]} == {"keras", "int8-xnnpack"}
    page = tmp_path / "page.html"
    status, _, err = edge_derm("report", out, "--out", page)
    assert status == 0 and page.read_text().count("data:image/png;base64,") == 8, err
    for row in record["rows"]:
        assert row["size"] <= row["radius"] and {
            "fooling_rate",
            "success_rate",
            "control",
            "zeta",
        } <= set(row)


@pytest.mark.slow
def test_the_command_audits_a_bundle_with_its_parent_or_alone(trained, tmp_path):
    run, bundle = trained
    gate = tmp_path / "gate.toml"
    gate.write_text("min_accuracy = 1.1\n")
    status, out, err = edge_derm(
        "audit", bundle, "--against", run, *QUICK, "--norm", "2", "--rows-only", "--gate", gate, "--json", "-"
    )
    assert status == 1 and "min_accuracy: expected at least 1.1" in err and err.count("\n") == 1
    assert json.loads(out)["passed"] is False and json.loads(out)["channels"] is None
    wheres = [row["where"] for row in json.loads(out)["rows"]]
    assert wheres == ["keras", "keras", "int8-xnnpack", "int8-xnnpack", "int8-reference", "int8-reference"]
    status, out, err = edge_derm("audit", bundle, *QUICK, "--norm", "2", "--rows-only", "--json", "-")
    alone = json.loads(out)
    assert status == 0 and {row["where"] for row in alone["rows"]} == {
        "twin",
        "int8-xnnpack",
        "int8-reference",
    }
    assert alone["twin_agreement"]["value"] > 0.8 and "no float parent" in alone["notes"][0]
    assert all(row["size"] <= row["radius"] for row in alone["rows"])
    status, _, err = edge_derm("audit", run, "--data", "synthetic:160", "--target-class", "wart")
    assert status == 1 and "wart" in err and err.count("\n") == 1

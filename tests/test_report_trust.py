"""The page says what was measured, and says what abstained means."""

import json

import cv2
import numpy as np
import pytest

from edge_derm import judging, using
from edge_derm.bundle import Calibration, open_bundle, update_bundle
from edge_derm.report import page, trust
from edge_derm.runtime.measures import measures
from edge_derm.runtime import known
from edge_derm.trust import calibrating, parity, uncertainty
from edge_derm.trust.evaluate import evaluate

LABELS = ("mel", "nv", "bkl")


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 200, p=[0.3, 0.6, 0.1])
    p = rng.dirichlet(np.ones(3), 200) + 0.6 * np.eye(3)[y]
    return p / p.sum(1, keepdims=True), y, [str(i) for i in range(200)]


def test_every_record_of_trust_has_a_section_of_its_own(scores, tmp_path):
    p, y, groups = scores
    (tmp_path / "r.csv").write_text(
        "reader,image_id,decision\n"
        + "".join(f"<b>anna</b>,{i},{'mel' if y[i] == 0 else 'nv'}\n" for i in range(200))
    )
    judged = evaluate(
        p, y, LABELS, groups=groups, image_ids=groups, meta=[{"sex": "f" if i % 2 else "m"} for i in range(200)],
        positive="mel", negative="nv", readers=tmp_path / "r.csv", reference=True,
    )  # fmt: skip
    wanted = calibrating.Wanted()
    fit, fitted = calibrating.calibrate(np.log(p), p, y, groups, wanted, labels=LABELS)
    calibrated = {
        "record": "calibrate", "part": "all", "images": {"fit": 200, "check": 200}, "miscoverage": 0.1, "risk": 0.1,
        "doubt": 0.1, "score": "lac", "temperature": fit.scaling.temperature, "abstain_threshold": fit.threshold, **fitted,
    }  # fmt: skip
    passes = np.stack([p, p[:, ::-1]])
    wrong = p.argmax(1) != y
    found = uncertainty.unsure(measures(passes))
    rows = {k: uncertainty.judge(v, wrong, groups, resamples=10) for k, v in found.items()}
    doubt = {
        "record": "uncertainty", "images": 200, "part": "all",
        "metrics": {"plain": rows, "mc": rows}, "ood": None,
        "risk_coverage": {
            "best": {"possible": uncertainty.risk_coverage(wrong.astype(float), wrong)},
            "plain": {k: uncertainty.risk_coverage(v, wrong) for k, v in found.items()},
        },
        "stability": uncertainty.stability(passes, wrong, measures),
        "best": {
            "errors": uncertainty.best({"plain": rows}, lambda r: r["errors"]),
            "reduction_at_80": uncertainty.best({"plain": rows}, lambda r: r["reduction_at_80"]),
            "ood": None,
        },
    }  # fmt: skip
    compared = parity.compare({"xnnpack": p, "reference": p}, p, y, groups=groups, labels=LABELS)
    records = [
        calibrated,
        doubt,
        {"record": "evaluate", "images": 200, "part": "all", **judged},
        {"record": "verify", "images": 200, "part": "all", **compared},
    ]
    page.render(json.loads(json.dumps(records)), tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    for words in (
        "gave no answer", "a person has to look", "Risk and coverage", "Readers against the model", "adjusted over all 6 tests",
        "published: their network", "not re-checked here", "paired interval of the difference", "Differences between subgroups",
    ):  # fmt: skip
        assert words in html, words
    assert ">Values<" not in html  # no record fell back to a bare table
    assert "<b>anna</b>" not in html


def test_a_class_that_falls_short_of_the_promise_is_named():
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 50}
    fine = {"value": 0.88, "low": 0.8, "high": 0.93, "n": 50}
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    told = {"miscoverage": 0.1, "class_coverage": {"mel": figure, "nv": fine, "df": nothing}}
    assert trust.short_of(told) == ["mel"]


def test_a_bundles_report_opens_with_its_model_card(tiny_bundle, tmp_path):
    using.report([tiny_bundle], tmp_path / "plain.html")
    html = (tmp_path / "plain.html").read_text()
    for words in (
        "Model card",
        "Intended use",
        "Not a medical device",
        "Not calibrated",
        "never abstains",
        "not in the bundle",
    ):
        assert words in html, words
    update_bundle(
        open_bundle(tiny_bundle),
        temperature=1.2,
        abstain_threshold=0.6,
        calibration=Calibration(shift=(0.0, 1.0, 0.0, 0.0)),
    )
    rng = np.random.default_rng(0)
    for label in ("akiec", "bcc", "mel", "nv"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(
                str(tmp_path / "images" / label / f"{i}.png"), rng.integers(0, 256, (40, 40, 3), np.uint8)
            )
    record = judging.evaluate(tiny_bundle, data=str(tmp_path / "images"), positive="mel", keep=True)
    kept = open_bundle(tiny_bundle).manifest.metrics["evaluation"]
    assert kept["accuracy"] == {k: record["accuracy"][k] for k in ("value", "low", "high", "n")}
    using.report([tiny_bundle], tmp_path / "fitted.html")
    html = (tmp_path / "fitted.html").read_text()
    assert "Judged on 16 images" in html and "mel, youden" in html
    assert (
        "Not calibrated" not in html
        and "never abstains" not in html
        and "rare ones are called less often" in html
    )


def test_the_card_says_whose_answer_is_named_and_who_tells_foreign_pictures(tiny_bundle, tmp_path):
    using.report([tiny_bundle], tmp_path / "plain.html")
    plain = (tmp_path / "plain.html").read_text()
    assert "unless it abstains." in plain and "own answer" not in plain
    stored = known.remember(np.ones((3, 16)), 0.2)
    update_bundle(
        open_bundle(tiny_bundle),
        calibration=Calibration(shift=(0.0, 1.0, 0.0, 0.0), weights=(1.0, 0.5, 1.0, 1.0)),
        parts={known.PART: (known.ROLE, stored.dumps())},
    )
    using.report([tiny_bundle], tmp_path / "fitted.html")
    fitted = (tmp_path / "fitted.html").read_text()
    assert "own answer" in fitted and "predict calls it foreign" in fitted
    assert "rare ones are called less often" not in fitted

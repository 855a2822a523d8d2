"""The audit's section of the report shows every row, every picture and what is not known, and escapes what comes from outside."""

import base64

import cv2
import numpy as np

from edge_derm.report import audits
from edge_derm.trust import exhibits


def figure(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 50}


def row(**changes):
    return {
        "where": "int8-xnnpack", "norm": "inf", "source": "training", "targeted": None, "psnr_db": 30.25,
        "fooling_rate": figure(0.8), "success_rate": None, "over_control": figure(0.5),
        "control": {"kind": "signs", "fooling_rate": figure(0.3), "success_rate": None},
        "accuracy": {"clean": figure(0.7), "perturbed": figure(0.2)}, "dominant": {"<nv>": 0.9}, **changes,
    }  # fmt: skip


def test_rows_without_extras_are_a_whole_section():
    html = audits.audit(
        {"rows": [row(), row(fooling_rate=figure(0.4))], "images": 50, "part": "test", "notes": ["a < b"]}
    )
    assert "80%" in html and "30%" in html and "30.2" in html and "int8-xnnpack" in html
    assert "&lt;nv&gt;" in html and "<nv>" not in html and "a &lt; b" in html


def test_a_picture_is_shown_only_if_it_is_one():
    r = np.zeros((8, 8, 3), np.float32)
    r[0, 0] = [4, -2, 0]
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    good = {
        "norm": 2,
        "source": "natural",
        "targeted": "mel",
        "largest": 4.0,
        "png": exhibits.strip(r, images),
    }
    html = audits.gallery([good, {**good, "png": "http://elsewhere/x.png"}])
    assert html.count("<img") == 1 and "elsewhere" not in html
    picture = cv2.imdecode(
        np.frombuffer(base64.b64decode(good["png"].split(",")[1]), np.uint8), cv2.IMREAD_COLOR
    )
    assert picture.shape == (8, 5 * 8 + 4 * exhibits.MARGIN, 3)
    np.testing.assert_array_equal(
        picture[0, 0, ::-1], [255, 64, 128]
    )  # enlarged: 4 is white, −2 half-way to black
    np.testing.assert_array_equal(picture[0, 12, ::-1], [100, 100, 100])
    np.testing.assert_array_equal(picture[0, 24, ::-1], [104, 98, 100])


def test_a_detector_that_knows_nothing_says_so():
    assert "no perturbation moved" in audits.detector_table({"reason": "no perturbation moved the model"})
    assert audits.detector_table(None) == ""

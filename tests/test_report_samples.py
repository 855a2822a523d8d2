"""Sample pictures on the page: what is said of each, and where the network looked."""

import base64

import cv2
import numpy as np
import pytest

from edge_derm.report import page
from test_report import HOSTILE, Balance


@pytest.fixture
def predicted(tmp_path):
    """A record as ``predict --mask`` writes it, and its two pictures."""
    for name in ("a.png", "a-mask.png"):
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), len(name), np.uint8))
    return {
        "record": "predict", "image": str(tmp_path / "a.png"), "label": HOSTILE,
        "probabilities": {HOSTILE: 0.3, "nv": 0.6, "bkl": 0.08, "df": 0.02}, "abstained": True, "foreign": True,
        "prediction_set": [], "mask": {"file": str(tmp_path / "a-mask.png"), "least": 0.2, "mean": 0.4, "most": 0.7},
    }  # fmt: skip


def rendered(tmp_path, *records):
    page.render(records, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    balance = Balance()
    balance.feed(text)
    assert not balance.open and HOSTILE not in text
    return text, balance.images


def test_a_picture_stands_beside_where_the_network_looked(predicted, tmp_path):
    text, images = rendered(tmp_path, predicted)
    for image, name in zip(images, ("a.png", "a-mask.png"), strict=True):
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert data == (tmp_path / name).read_bytes() and image["alt"] == name
    assert "mask: 0.20 to 0.70" in text and "where, not why" in text


def test_a_flat_mask_is_called_so_and_none_is_not_spoken_of(predicted, tmp_path):
    flat = {**predicted["mask"], "least": 0.48, "most": 0.5}
    assert "mask: everywhere alike, 0.48 to 0.50" in rendered(tmp_path, {**predicted, "mask": flat})[0]
    for without in ({**predicted, "mask": None}, {k: v for k, v in predicted.items() if k != "mask"}):
        text, images = rendered(tmp_path, without)
        assert len(images) == 1 and "mask" not in text.split("<h2>Sample")[1]


def test_abstained_foreign_and_a_name_that_is_not_the_most_probable_are_explained(predicted, tmp_path):
    words = (
        "not sure enough to answer",
        "gave no answer",
        "unlike what it knows",
        "every class counts alike",
    )
    text = rendered(tmp_path, predicted)[0]
    assert all(word in text for word in words)
    assert (
        text.index("script&gt; 0.30") < text.index("nv 0.60") < text.index("bkl 0.08")
        and "df 0.02" not in text
    )
    sure = {**predicted, "label": "nv", "abstained": None, "foreign": None, "prediction_set": None}
    text = rendered(tmp_path, sure)[0]
    assert not any(word in text for word in words)

"""The built-in pictures: repeatable, all classes, lesions seen twice stay one lesion."""

import numpy as np
import pytest

from edge_derm.data import open_dataset, split
from edge_derm.data.synthetic import LABELS, draw, open_synthetic


def test_the_same_number_is_the_same_picture():
    assert np.array_equal(draw(5, seed=3), draw(5, seed=3))
    assert not np.array_equal(draw(5, seed=3), draw(5, seed=4))
    picture = draw(0)
    assert picture.dtype == np.uint8 and picture.shape == (160, 160, 3)


def test_the_smallest_set_has_every_class():
    assert set(open_dataset("synthetic:8").targets()) == set(range(len(LABELS)))


def test_more_pictures_keep_the_first_ones():
    few, many = open_dataset("synthetic:16"), open_dataset("synthetic:64")
    assert few.samples == many.samples[:16]
    assert few.digest != many.digest


def test_a_second_view_has_the_lesion_and_label_of_the_first():
    dataset = open_dataset("synthetic:400")
    lesions = {}
    for sample in dataset.samples:
        lesions.setdefault(sample.group, []).append(sample.label)
    twice = [labels for labels in lesions.values() if len(labels) == 2]
    assert len(twice) == 50 and all(a == b for a, b in twice)
    assert not np.array_equal(dataset.read(6), dataset.read(7))


def test_classes_are_imbalanced_and_split_lesion_wise():
    dataset = open_dataset("synthetic:800")
    counts = np.bincount(dataset.targets())
    assert counts.max() > 1.5 * counts.min()
    parts = split(dataset, seed=0).parts
    sides = [{dataset.samples[i].group for i in members} for members in parts.values()]
    assert not sides[0] & sides[1]


def test_lesions_are_darker_or_redder_than_their_skin():
    for index in range(24):
        picture = draw(index).astype(float)
        centre, ring = picture[65:95, 65:95].mean((0, 1)), picture[30:130, 30:130].max((0, 1))
        assert (centre[1:] < ring[1:]).all()


@pytest.mark.slow
def test_difficulty_widens_the_classes():
    """Nearest-mean on coarse colours does worse on harder pictures: the knob does something."""
    scores = []
    for difficulty in (0.0, 1.0):
        dataset = open_synthetic("synthetic:400", difficulty=difficulty)
        x = dataset.images(8).reshape(400, -1).astype(float)
        y = dataset.targets()
        means = np.stack([x[:300][y[:300] == c].mean(0) for c in range(4)])
        nearest = ((x[300:, None] - means) ** 2).sum(-1).argmin(1)
        scores.append((nearest == y[300:]).mean())
    assert scores[0] > scores[1] + 0.05

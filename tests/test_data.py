"""Data sets: what is read, what is refused, what is reported, how it is split."""

import csv

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_derm.data import Dataset, Sample, open_dataset, split
from edge_derm.errors import DataError


def write_image(path, value=100, size=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "images"
    for name, count in (("mel", 6), ("nv", 9)):
        for i in range(count):
            write_image(root / name / f"{i}.png", value=10 * i + (100 if name == "nv" else 0))
    return root


@pytest.fixture
def table(tmp_path):
    root = tmp_path / "ham"
    rows = [
        {
            "image_id": f"i{i}",
            "dx": "mel" if i % 3 == 0 else "nv",
            "lesion_id": f"l{i // 2}",
            "age": str(i),
            "sex": "female",
        }
        for i in range(12)
    ]
    for i in range(12):
        write_image(root / "images" / f"i{i}.jpg", value=10 * i)
    write_rows(root, rows)
    return root, rows


def write_rows(root, rows):
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def kinds(dataset):
    return sorted(problem.kind for problem in dataset.problems)


def test_a_folder_a_class_is_read(folders):
    dataset = open_dataset(folders)
    assert dataset.labels == ("mel", "nv") and len(dataset) == 15 and not dataset.problems
    assert np.bincount(dataset.targets()).tolist() == [6, 9]
    assert dataset.images(16).shape == (15, 16, 16, 3)


def test_a_metadata_table_is_read_with_lesions_and_meta(table):
    root, _ = table
    dataset = open_dataset(root)
    assert dataset.labels == ("mel", "nv") and len(dataset) == 12
    sample = next(s for s in dataset.samples if s.image_id == "i5")
    assert sample.group == "l2" and sample.meta["age"] == "5" and sample.meta["sex"] == "female"


def test_the_digest_ignores_place_and_order_but_not_content(folders, tmp_path):
    first = open_dataset(folders).digest
    moved = tmp_path / "elsewhere"
    folders.rename(moved)
    assert open_dataset(moved).digest == first
    write_image(moved / "mel" / "0.png", value=251)
    assert open_dataset(moved).digest != first


def test_what_is_wrong_is_reported_and_left_out(folders):
    (folders / "mel" / "bad.jpg").write_bytes(b"nothing")
    (folders / "mel" / "notes.txt").write_text("x")
    (folders / "empty").mkdir()
    write_image(folders / "stray.png")
    dataset = open_dataset(folders)
    assert kinds(dataset) == ["class-empty", "image-broken", "image-without-class", "not-an-image"]
    assert len(dataset) == 15


def test_rows_and_files_that_do_not_meet_are_reported(table):
    root, rows = table
    (root / "images" / "i0.jpg").unlink()
    write_image(root / "images" / "extra.jpg")
    rows[1]["dx"] = ""
    write_rows(root, rows)
    dataset = open_dataset(root)
    assert kinds(dataset) == ["image-without-row", "label-missing", "row-without-image"]
    assert len(dataset) == 10


def test_truncated_images_are_counted_when_read(folders):
    whole = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    for i in range(3):
        (folders / "mel" / f"cut{i}.jpg").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(DataError, match="3 images cannot be used") as caught:
        open_dataset(folders).images(16)
    assert caught.value.code == "images-broken"


@pytest.mark.parametrize(
    "make, code",
    [
        (lambda r: r / "absent", "data-missing"),
        (lambda r: (r / "file").write_text("x") and r / "file", "data-not-a-folder"),
        (lambda r: r, "data-empty"),
        (lambda r: (write_image(r / "only" / "a.png"), r)[1], "data-one-class"),
        (lambda r: ((r / "metadata.csv").write_text("a,b\n1,2\n"), r)[1], "metadata-columns"),
        (
            lambda r: ((r / "metadata.csv").write_text("image_id,dx\ni,mel\ni,nv\n"), r)[1],
            "metadata-duplicate",
        ),
        (lambda r: ((r / "metadata.csv").write_bytes(b"\xff\xfe\x00"), r)[1], "metadata-broken"),
        (lambda r: "synthetic:3", "synthetic-count"),
        (lambda r: "synthetic:many", "synthetic-count"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, make, code):
    with pytest.raises(DataError) as caught:
        open_dataset(make(tmp_path))
    assert caught.value.code == code


def test_images_do_not_depend_on_the_number_of_workers():
    dataset = open_dataset("synthetic:24")
    assert np.array_equal(dataset.images(32, workers=1), dataset.images(32, workers=5))


def made_up(labels, groups):
    samples = tuple(
        Sample(f"i{i:03d}", label, f"g{group}") for i, (label, group) in enumerate(zip(labels, groups))
    )
    return Dataset("made up", "made up", ("a", "b", "c"), samples, (), "")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=20, max_size=120), st.integers(0, 5)
)
def test_no_lesion_is_on_two_sides_and_no_image_is_lost(pairs, seed):
    labels, groups = zip(*pairs)
    dataset = made_up(labels, groups)
    try:
        parts = split(dataset, seed=seed, fractions={"train": 0.7, "validation": 0.3}).parts
    except DataError as error:
        assert error.code in ("split-too-small", "split-classes")
        return
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(dataset)))
    sides = [{groups[i] for i in members} for members in parts.values()]
    assert not sides[0] & sides[1]


def test_each_class_is_divided_by_the_fractions():
    labels = [0] * 200 + [1] * 40 + [2] * 7
    dataset = made_up(labels, range(247))
    parts = split(dataset, seed=3, fractions={"train": 0.85, "validation": 0.15}).parts
    counts = np.bincount(np.array(labels)[parts["validation"]])
    assert counts.tolist() == [30, 6, 1]


def test_a_split_depends_on_ids_and_seed_not_on_order():
    labels, groups = [i % 3 for i in range(60)], range(60)
    dataset = made_up(labels, groups)
    mixed = dataset.subset(np.random.default_rng(0).permutation(60))
    named = [{d.samples[i].image_id for i in split(d, seed=1).parts["validation"]} for d in (dataset, mixed)]
    assert named[0] == named[1]
    assert split(dataset, seed=1).digest == split(mixed, seed=1).digest != split(dataset, seed=2).digest


def test_impossible_splits_are_refused():
    with pytest.raises(DataError) as caught:
        split(made_up([0, 0, 0], range(3)), seed=0)
    assert caught.value.code == "split-classes"
    with pytest.raises(DataError) as caught:
        split(made_up([0, 1] * 9, range(18)), seed=0, fractions={"train": 0.9, "validation": 0.2})
    assert caught.value.code == "split-fractions"

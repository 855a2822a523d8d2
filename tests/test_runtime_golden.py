"""Golden vectors: the same machine reproduces them, another one is measured in steps of the output."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Mapping

import numpy as np
import pytest

from edge_derm.bundle import Bundle, describe_model, open_bundle, update_bundle, write_bundle
from edge_derm.errors import BundleError
from edge_derm.runtime import golden

RECIPES = ("int8", "uint8", "int16", "float32")


def bundle_with(path: Path, model: bytes, data: bytes) -> Bundle:
    return write_bundle(path, describe_model(model), model=model, parts={golden.NAME: (golden.ROLE, data)})


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_machine_that_made_them_reproduces_them(
    tmp_path: Path, tiny_models: Mapping[str, bytes], tiny_images: np.ndarray, recipe: str
) -> None:
    model = tiny_models[recipe]
    data = golden.make(model, tiny_images)
    assert data == golden.make(model, tiny_images)
    found = golden.check(bundle_with(tmp_path / "b", model, data))
    assert set(found) == {"default", "reference"}
    for difference in found.values():
        assert difference.absolute == 0.0 and difference.decisions_changed == 0
        assert difference.lsb == (None if recipe == "float32" else 0)


def test_numpy_reads_them(tiny_int8: bytes, tiny_images: np.ndarray) -> None:
    arrays = np.load(io.BytesIO(golden.make(tiny_int8, tiny_images)))
    np.testing.assert_array_equal(arrays["inputs"], tiny_images)
    assert arrays["outputs_default"].shape == (12, 4) and arrays["outputs_reference"].dtype == np.int8


def test_a_difference_is_counted_in_steps(tmp_path: Path, tiny_int8: bytes, tiny_images: np.ndarray) -> None:
    arrays = dict(np.load(io.BytesIO(golden.make(tiny_int8, tiny_images))))
    arrays["outputs_reference"][3, 0] += 2 if arrays["outputs_reference"][3, 0] < 100 else -2
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    found = golden.check(bundle_with(tmp_path / "b", tiny_int8, stream.getvalue()))
    assert found["default"].lsb == 0 and found["reference"].lsb == 2
    assert found["reference"].absolute == pytest.approx(2 / 256)


def test_a_bundle_without_them_says_so(tmp_path: Path, tiny_int8: bytes) -> None:
    with pytest.raises(BundleError) as refused:
        golden.check(write_bundle(tmp_path / "b", describe_model(tiny_int8), model=tiny_int8))
    assert refused.value.code == "golden-missing"


def pickled() -> bytes:
    stream = io.BytesIO()
    np.savez(
        stream,
        inputs=np.array([{}], dtype=object),
        outputs_default=np.zeros(1),
        outputs_reference=np.zeros(1),
    )
    return stream.getvalue()


def uneven() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, inputs=np.zeros((2, 32, 32, 3), "u1"), outputs_default=np.zeros((1, 4), "i1"),
             outputs_reference=np.zeros((2, 4), "i1"))  # fmt: skip
    return stream.getvalue()


def foreign_dtype() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, inputs=np.zeros((2, 32, 32, 3), "u1"), outputs_default=np.zeros((2, 4), "f4"),
             outputs_reference=np.zeros((2, 4), "f4"))  # fmt: skip
    return stream.getvalue()


@pytest.mark.parametrize("make", [lambda: b"", lambda: b"PK\x03\x04", pickled, uneven, foreign_dtype])
def test_broken_vectors_are_named(tiny_bundle: Path, make: object) -> None:
    data: bytes = make()  # type: ignore[operator]
    bundle = update_bundle(open_bundle(tiny_bundle), parts={golden.NAME: (golden.ROLE, data)})
    with pytest.raises(BundleError) as refused:
        golden.check(bundle)
    assert refused.value.code == "golden-broken"

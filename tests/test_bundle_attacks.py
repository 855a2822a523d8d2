"""Whatever is done to a bundle's files, opening it ends in a named BundleError or in the right bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_derm.bundle import Bundle, open_bundle
from edge_derm.bundle.manifest import loads
from edge_derm.errors import BundleError

MANIFESTS = sorted((Path(__file__).parent / "attacks" / "bundle").glob("*.json"))


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        open_bundle(path)
    assert "\n" not in str(error.value) and str(error.value).isprintable()
    return error.value.code


@pytest.mark.parametrize("attack", MANIFESTS, ids=lambda path: path.stem)
def test_every_hostile_manifest_is_refused_by_its_name(tiny_bundle: Path, attack: Path) -> None:
    shutil.copy(attack, tiny_bundle / "manifest.json")
    if attack.stem.startswith("bundle-file-missing"):
        (tiny_bundle / "golden.npz").unlink()
    assert refused(tiny_bundle) == attack.stem.split("--")[0]


def truncate(bundle: Path) -> None:
    os.truncate(bundle / "model.tflite", 100)


def grow(bundle: Path) -> None:
    with open(bundle / "model.tflite", "ab") as stream:
        stream.write(b"\0")


def flip(bundle: Path) -> None:
    data = bytearray((bundle / "model.tflite").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.tflite").write_bytes(data)


def link_model(bundle: Path) -> None:
    (bundle / "model.tflite").rename(bundle.parent / "elsewhere")
    (bundle / "model.tflite").symlink_to(bundle.parent / "elsewhere")


def link_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "elsewhere")
    (bundle / "manifest.json").symlink_to(bundle.parent / "elsewhere")


def folder_for_model(bundle: Path) -> None:
    (bundle / "model.tflite").unlink()
    (bundle / "model.tflite").mkdir()


def pipe_for_golden(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()
    os.mkfifo(bundle / "golden.npz")  # would block a careless reader for ever


def huge_manifest(bundle: Path) -> None:
    os.truncate(bundle / "manifest.json", 5 * 1024 * 1024)


def swap_models(bundle: Path) -> None:
    golden, model = (bundle / "golden.npz").read_bytes(), (bundle / "model.tflite").read_bytes()
    (bundle / "golden.npz").write_bytes(model)
    (bundle / "model.tflite").write_bytes(golden)


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("bundle-file-size", truncate),
    ("bundle-file-size", grow),
    ("bundle-file-digest", flip),
    ("bundle-file-kind", link_model),
    ("bundle-file-kind", link_manifest),
    ("bundle-file-kind", folder_for_model),
    ("bundle-file-kind", pipe_for_golden),
    ("bundle-file-size", swap_models),
    ("manifest-size", huge_manifest),
    ("bundle-file-missing", lambda bundle: (bundle / "golden.npz").unlink()),
    ("bundle-file-missing", lambda bundle: (bundle / "model.tflite").rename(bundle / "Model.tflite")),
    ("bundle-file-extra", lambda bundle: (bundle / "extra.py").write_text("print()")),
    ("bundle-file-extra", lambda bundle: (bundle / ".hidden").write_text("")),
    ("bundle-file-extra", lambda bundle: (bundle / "sub").mkdir()),
    ("signature-json", lambda bundle: (bundle / "signature.json").write_text("{}")),
    ("manifest-missing", lambda bundle: (bundle / "manifest.json").unlink()),
    ("bundle-missing", shutil.rmtree),
]


@pytest.mark.parametrize(("code", "damage"), DAMAGE)
def test_every_damage_to_the_folder_is_refused_by_its_name(
    tiny_bundle: Path, code: str, damage: Callable[[Path], object]
) -> None:
    damage(tiny_bundle)
    assert refused(tiny_bundle) == code


def test_a_file_or_an_impossible_path_is_no_bundle(tiny_bundle: Path) -> None:
    assert refused(tiny_bundle / "model.tflite") == "bundle-not-a-folder"
    with pytest.raises(BundleError) as error:
        open_bundle("a\0b")
    assert error.value.code == "bundle-unreadable"


def forge(bundle: Path, model: bytes) -> None:
    """Put another model in and make every digest right: what a forger without a key can do."""
    (bundle / "model.tflite").write_bytes(model)
    told = json.loads((bundle / "manifest.json").read_text())
    told["files"]["model.tflite"].update(sha256=hashlib.sha256(model).hexdigest(), bytes=len(model))
    (bundle / "manifest.json").write_text(json.dumps(told))


def test_a_forged_model_meets_the_structural_check(tiny_bundle: Path, tiny_float: bytes) -> None:
    model = (tiny_bundle / "model.tflite").read_bytes()
    for forged in (b"", b"PK", model[:200], b"\0" * 1000, model[:4] + b"XXXX" + model[8:]):
        forge(tiny_bundle, forged)
        assert refused(tiny_bundle).startswith("model-")
    forge(tiny_bundle, tiny_float)
    assert refused(tiny_bundle) == "model-interface"


CHILD = """
import sys
from edge_derm.bundle import open_bundle
from edge_derm.errors import BundleError
for path in sys.argv[1:]:
    try:
        open_bundle(path)
    except BundleError:
        pass
native = sorted(name for name in sys.modules if name.split(".")[0] in
                ("ai_edge_litert", "tflite_runtime", "tensorflow", "keras", "cv2"))
print(native)
"""


def test_opening_never_loads_native_inference_code(tiny_bundle: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(tiny_bundle, bad)
    forge(bad, b"\0" * 1000)
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(tiny_bundle), str(bad)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, tiny_int8: bytes) -> Bundle:
    from edge_derm.bundle import describe_model, write_bundle

    path = tmp_path_factory.mktemp("fuzz") / "b"
    parts = {"card.html": ("card", b"<p>card</p>")}
    return write_bundle(path, describe_model(tiny_int8), model=tiny_int8, parts=parts)


FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
edits = st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=6)


def edited(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    altered = bytearray(data)
    for where, value in changes:
        altered[where % len(altered)] = value
    return bytes(altered)


@FUZZ
@given(
    name=st.sampled_from(["manifest.json", "model.tflite", "card.html"]), changes=edits, cut=st.integers(0, 9)
)
def test_altered_bytes_are_refused_or_change_nothing_that_counts(
    pristine: Bundle, name: str, changes: list[tuple[int, int]], cut: int
) -> None:
    file = pristine.path / name
    original = file.read_bytes()
    altered = edited(original, changes)
    altered = altered[: len(altered) * cut // 9] if cut < 9 else altered
    try:
        file.write_bytes(altered)
        try:
            opened = open_bundle(pristine.path)
        except BundleError:
            return
        # Only the manifest can change and still open; the model it vouches for is the original.
        assert altered == original or name == "manifest.json"
        assert opened.model == pristine.model
    finally:
        file.write_bytes(original)


@FUZZ
@given(changes=edits)
def test_a_forged_model_never_raises_anything_but_a_bundle_error(
    pristine: Bundle, changes: list[tuple[int, int]]
) -> None:
    forged = edited(pristine.model, changes)
    manifest = (pristine.path / "manifest.json").read_bytes()
    try:
        forge(pristine.path, forged)
        try:
            opened = open_bundle(pristine.path)
        except BundleError as error:
            assert error.code.startswith("model-")
        else:
            assert opened.model == forged
    finally:
        (pristine.path / "model.tflite").write_bytes(pristine.model)
        (pristine.path / "manifest.json").write_bytes(manifest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@FUZZ
@given(key=st.integers(0, 30), value=json_values)
def test_any_json_in_any_field_is_read_or_refused(pristine: Bundle, key: int, value: object) -> None:
    told = json.loads(pristine.manifest.dumps())
    places = [(told, name) for name in told]
    places += [
        (told[group], name) for group in ("input", "output", "provenance", "files") for name in told[group]
    ]
    table, name = places[key % len(places)]
    table[name] = value
    text = json.dumps(told)
    try:
        read = loads(text.encode())
    except BundleError as error:
        assert error.code
        return
    again = loads(read.dumps().encode())
    assert again == read


@FUZZ
@given(data=st.binary(max_size=200))
def test_any_bytes_as_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        loads(data)


@pytest.mark.slow
def test_two_thousand_bit_flips_are_all_refused(pristine: Bundle) -> None:
    rng = np.random.default_rng(3)
    for name in ("model.tflite", "card.html"):
        original = (pristine.path / name).read_bytes()
        for _ in range(1000):
            altered = bytearray(original)
            altered[rng.integers(len(altered))] ^= 1 << int(rng.integers(8))
            (pristine.path / name).write_bytes(altered)
            assert refused(pristine.path) == "bundle-file-digest"
        (pristine.path / name).write_bytes(original)

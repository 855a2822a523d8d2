"""A bundle is written whole or not at all, and reads back as it was written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_derm.bundle import (
    Bundle,
    Input,
    Manifest,
    Output,
    describe_model,
    embed_metadata,
    open_bundle,
    update_bundle,
    write_bundle,
)
from edge_derm.errors import BundleError

LABELS = ("akiec", "bcc", "mel", "nv")


def manifest(**changes: object) -> Manifest:
    fields = {
        "labels": LABELS,
        "input": Input(32, "int8"),
        "output": Output("int8"),
        "recipe": "int8",
        "io": "int8",
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_bundle_reads_back_as_it_was_written(tmp_path: Path, tiny_int8: bytes) -> None:
    told = manifest(
        variant="d1",
        alpha=0.25,
        dilation={"dw1": 2},
        temperature=1.5,
        metrics={"accuracy": {"value": 0.5, "n": 10}},
    )
    written = write_bundle(tmp_path / "b", told, model=tiny_int8, parts={"card.html": ("card", b"<p>")})
    opened = open_bundle(tmp_path / "b")
    assert opened == written
    assert (
        opened.model == tiny_int8
        and opened.part("card.html") == b"<p>"
        and opened.named("card") == "card.html"
    )
    assert opened.manifest.updated(files={}) == told


def test_writing_twice_gives_the_same_bytes(tmp_path: Path, tiny_int8: bytes) -> None:
    for name in "ab":
        write_bundle(tmp_path / name, manifest(), model=tiny_int8)
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_labels_in_any_script_survive(tmp_path: Path, tiny_int8: bytes) -> None:
    labels = ("nävus", "黒色腫", "меланома", "a b")
    model = embed_metadata(tiny_int8, labels=labels)
    write_bundle(tmp_path / "b", describe_model(model), model=model)
    assert open_bundle(tmp_path / "b").manifest.labels == labels


def test_numpy_figures_become_plain_numbers(tmp_path: Path, tiny_int8: bytes) -> None:
    told = manifest(temperature=np.float64(1.25), metrics={"n": np.int64(3), "ece": np.float32(0.5)})
    assert write_bundle(tmp_path / "b", told, model=tiny_int8).manifest.metrics == {"n": 3, "ece": 0.5}


def test_update_changes_the_manifest_and_nothing_else(tiny_bundle: Path) -> None:
    before = open_bundle(tiny_bundle)
    names = set(os.listdir(tiny_bundle.parent))
    update_bundle(before, temperature=1.4, abstain_threshold=0.5)
    after = open_bundle(tiny_bundle)
    assert after.manifest == before.manifest.updated(temperature=1.4, abstain_threshold=0.5)
    assert after.model == before.model
    assert set(os.listdir(tiny_bundle.parent)) == names


def test_update_adds_a_part_and_keeps_the_others(tiny_bundle: Path) -> None:
    before = open_bundle(tiny_bundle)
    update_bundle(before, parts={"card.html": ("card", b"hello")}, temperature=2.0)
    after = open_bundle(tiny_bundle)
    assert after.part("card.html") == b"hello" and after.part("golden.npz") == before.part("golden.npz")
    assert after.manifest.temperature == 2.0


def test_update_refuses_a_wrong_value_and_leaves_the_bundle_alone(tiny_bundle: Path) -> None:
    before = open_bundle(tiny_bundle)
    for wrong in ({"temperature": 0.0}, {"labels": ("a", "b")}, {"temperature": float("nan")}):
        with pytest.raises(BundleError):
            update_bundle(before, **wrong)  # type: ignore[arg-type]
    assert open_bundle(tiny_bundle) == before


def test_update_refuses_files_that_changed_since_they_were_opened(tiny_bundle: Path) -> None:
    before = open_bundle(tiny_bundle)
    (tiny_bundle / "golden.npz").write_bytes(b"x")
    with pytest.raises(BundleError) as refused:
        update_bundle(before, temperature=1.4)
    assert refused.value.code == "bundle-file-size"


def test_a_model_that_is_not_the_described_one_is_refused(
    tmp_path: Path, tiny_int8: bytes, tiny_uint8: bytes
) -> None:
    for model, told in (
        (tiny_uint8, manifest()),
        (tiny_int8, manifest(labels=LABELS[:3])),
        (tiny_int8, manifest(input=Input(64, "int8"))),
        (tiny_int8, manifest(output=Output("uint8"))),
    ):
        with pytest.raises(BundleError) as refused:
            write_bundle(tmp_path / "b", told, model=model)
        assert refused.value.code == "model-interface"
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_writing_never_deletes_what_is_not_a_bundle(tmp_path: Path, tiny_int8: bytes, there: str) -> None:
    precious = tmp_path / "home" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    goal = {"file": precious, "folder": precious.parent, "link": tmp_path / "link"}[there]
    (tmp_path / "link").symlink_to(precious.parent)
    with pytest.raises(BundleError) as refused:
        write_bundle(goal, manifest(), model=tiny_int8)
    assert refused.value.code == "bundle-overwrite"
    assert precious.read_text() == "years of work"


def test_an_older_bundle_is_replaced(tiny_bundle: Path, tiny_int8: bytes) -> None:
    write_bundle(tiny_bundle, manifest(), model=tiny_int8)
    assert sorted(os.listdir(tiny_bundle)) == ["manifest.json", "model.tflite"]
    assert os.listdir(tiny_bundle.parent) == [tiny_bundle.name]


WRITE = """
import sys
from pathlib import Path
from edge_derm.bundle import describe_model, open_bundle, update_bundle, write_bundle
path, model, how = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3]
write_bundle(path, describe_model(model), model=model)
print("ready", flush=True)
i = 0
while True:
    i += 1
    if how == "write":
        write_bundle(path, describe_model(model).updated(temperature=float(i)), model=model)
    else:
        update_bundle(open_bundle(path), temperature=float(i))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["write", "update"])
def test_a_kill_leaves_the_old_or_the_new_bundle(tmp_path: Path, tiny_int8: bytes, how: str) -> None:
    (tmp_path / "m.tflite").write_bytes(tiny_int8)
    rng = np.random.default_rng(5)
    for _ in range(10):
        command = [sys.executable, "-c", WRITE, str(tmp_path / "b"), str(tmp_path / "m.tflite"), how]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        time.sleep(float(rng.uniform(0.0, 0.1)))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        # Replacing a folder takes two renames: between them the bundle is absent, never damaged.
        if how == "update" or (tmp_path / "b").exists():
            open_bundle(tmp_path / "b")


FULL = """
import resource, sys
from pathlib import Path
from edge_derm.bundle import describe_model, open_bundle, update_bundle, write_bundle
from edge_derm.errors import BundleError
path, model = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
bundle = open_bundle(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for act in (lambda: write_bundle(path, describe_model(model), model=model),
            lambda: update_bundle(bundle, temperature=2.0)):
    try:
        act()
    except BundleError as error:
        print(error.code)
"""


def test_a_full_disk_leaves_the_old_bundle_and_nothing_half_written(
    tiny_bundle: Path, tiny_int8: bytes
) -> None:
    # A limit on the size of files stands in for a full disk: the same write fails in the same way.
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] in (resource.RLIM_INFINITY, -1)
    model = tiny_bundle.parent / "m.tflite"
    model.write_bytes(tiny_int8)
    before = open_bundle(tiny_bundle)
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tiny_bundle), str(model)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["bundle-write", "bundle-write"]
    assert open_bundle(tiny_bundle) == before
    assert sorted(os.listdir(tiny_bundle.parent)) == sorted(["m.tflite", tiny_bundle.name])


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, tiny_int8: bytes) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "b", tmp_path / "nul\0byte"):
        with pytest.raises(BundleError) as refused:
            write_bundle(path, manifest(), model=tiny_int8)
        assert refused.value.code == "bundle-write"


def test_an_unlisted_part_is_refused_by_name(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError) as refused:
        open_bundle(tiny_bundle).part("../../etc/passwd")
    assert refused.value.code == "bundle-part"


def test_parts_are_verified_again_when_read(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    (tiny_bundle / "golden.npz").write_bytes(b"x" * bundle.manifest.files["golden.npz"].bytes)
    with pytest.raises(BundleError) as refused:
        bundle.part("golden.npz")
    assert refused.value.code == "bundle-file-digest"


def test_the_manifest_is_documented_json(tiny_bundle: Path) -> None:
    told = json.loads((tiny_bundle / "manifest.json").read_text())
    assert list(told) == [
        "schema", "labels", "input", "output", "recipe", "io", "variant", "alpha", "dilation", "preprocessing",
        "temperature", "conformal_quantile", "abstain_threshold", "provenance", "metrics", "files",
    ]  # fmt: skip
    assert told["schema"] == 1 and told["input"]["range"] == [0, 255]


def test_a_link_to_a_bundle_opens(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tiny_bundle)
    assert isinstance(open_bundle(tmp_path / "current"), Bundle)
    update_bundle(open_bundle(tmp_path / "current"), temperature=3.0)
    assert open_bundle(tiny_bundle).manifest.temperature == 3.0 and (tmp_path / "current").is_symlink()

"""Calibration on a board: its bundle stays as it is, its pictures stay there, and home accepts and signs what was fitted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.bundle.signing import keygen, sign, verify_signature
from edge_derm.cli.calibrate import calibrate

DATA = "synthetic:48"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Path:
    update_bundle(open_bundle(tiny_bundle), labels=("keratosis", "melanoma", "nevus", "vascular"))
    return tiny_bundle


def run(*words: object) -> Any:
    return CliRunner().invoke(calibrate, [*map(str, words)])


@pytest.mark.slow
def test_what_was_fitted_on_the_board_is_what_fitting_at_home_would_write(
    bundle: Path, tmp_path: Path
) -> None:
    keygen(tmp_path / "key")
    sign(bundle, tmp_path / "key")
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    fitted = run(bundle, "--data", DATA, "--by-class", "--dry-run", "--json", tmp_path / "new.json")
    assert fitted.exit_code == 0, fitted.output
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    verify_signature(bundle, tmp_path / "key.pub")

    home = tmp_path / "home.bundle"
    shutil.copytree(bundle, home)
    taken = run(home, "--accept", tmp_path / "new.json")
    assert taken.exit_code == 0 and "sign the bundle again" in taken.output
    assert run(bundle, "--data", DATA, "--by-class").exit_code == 0
    assert open_bundle(home).manifest == open_bundle(bundle).manifest
    sign(home, tmp_path / "key")
    verify_signature(home, tmp_path / "key.pub")


def test_a_record_of_another_model_or_of_something_else_is_refused(bundle: Path, tmp_path: Path) -> None:
    record = tmp_path / "new.json"
    fields = {"temperature": 1.2, "conformal_quantile": 0.8, "abstain_threshold": None, "calibration": None}
    manifest = bundle / "manifest.json"
    before = manifest.read_bytes()
    for change in (
        {"model_sha256": "0" * 64},
        {},
        {"model_sha256": open_bundle(bundle).manifest.files["model.tflite"].sha256, "temperature": -1},
    ):
        record.write_text(json.dumps({**fields, **change}))
        refused = run(bundle, "--accept", record)
        assert refused.exception.code == "calibration-record" and manifest.read_bytes() == before
    record.write_text("[")
    assert run(bundle, "--accept", record).exception.code == "calibration-record"
    assert run(bundle).exit_code == run(bundle, "--data", DATA, "--accept", record).exit_code == 2

"""The seam of targets: unknown names list the known, what is not ready says the command, local is always there."""

import json
import sys
import types

import pytest
from click.testing import CliRunner

from edge_derm.cli.targets import targets as command
from edge_derm.errors import TargetError
from edge_derm.measure import local, targets


def test_an_unknown_target_names_those_there_are():
    with pytest.raises(TargetError, match="one of local.*got 'moon'") as caught:
        targets.find_target("moon")
    assert caught.value.code == "target-unknown"


def test_the_list_has_the_keys_of_the_contract():
    rows = json.loads(CliRunner().invoke(command, ["--json", "-"]).output)
    assert {"name": "local", "kind": "local", "ready": True, "missing": None} in rows


def test_a_target_that_is_not_ready_says_the_command_and_is_not_run(monkeypatch, tmp_path):
    ran = []
    lame = targets.Target("lame", "x", lambda: (False, "make ready"), lambda *a, **k: ran.append(1) or {})
    monkeypatch.setattr(targets, "list_targets", lambda: [lame])
    with pytest.raises(TargetError, match="run 'make ready'") as caught:
        targets.bench(tmp_path, target="lame")
    assert caught.value.code == "target-not-ready" and not ran


def kind(monkeypatch, name, **functions):
    """A kind of target whose module is made here."""
    module = types.ModuleType(f"kind_{name}")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(targets.KINDS, name, module.__name__)


def test_a_target_is_found_without_loading_the_other_kinds(monkeypatch):
    monkeypatch.setitem(targets.KINDS, "broken", "no_such_module_at_all")
    assert targets.find_target("local").name == "local"


def test_a_kind_whose_targets_cannot_be_listed_finds_them_by_name(monkeypatch):
    far = targets.Target("far://host", "far", lambda: (True, None), lambda *a, **k: {})
    kind(monkeypatch, "far", find=lambda name: far if name == "far://host" else None)
    assert targets.find_target("far://host") is far


def test_an_option_that_a_target_lacks_is_named_and_one_that_is_off_is_not_handed_on(monkeypatch, tmp_path):
    seen = {}

    def plain(path, *, runs):
        seen.update(path=path, runs=runs)
        return {"record": "bench", "schema": 0}

    kind(
        monkeypatch, "plain", targets=lambda: [targets.Target("plain", "plain", lambda: (True, None), plain)]
    )
    with pytest.raises(TargetError, match="got profile, soak_min") as caught:
        targets.bench(tmp_path, target="plain", runs=60, profile=True, soak_min=1.0)
    assert caught.value.code == "target-option" and not seen
    with pytest.raises(TargetError) as caught:  # it ran, and what it returned is looked at
        targets.bench(tmp_path, target="plain", runs=60, profile=False, soak_min=None)
    assert caught.value.code == "record-schema" and seen == {"path": tmp_path, "runs": 60}


def test_prepare_makes_a_target_ready_and_says_so(monkeypatch):
    made = []
    lame = targets.Target(
        "lame",
        "lame",
        lambda: (bool(made), None if made else "make it"),
        lambda *a, **k: {},
        lambda: made.append(1),
    )
    kind(monkeypatch, "lame", targets=lambda: [lame])
    before = json.loads(CliRunner().invoke(command, ["--json", "-"]).output)
    assert {"name": "lame", "kind": "lame", "ready": False, "missing": "make it"} in before
    after = CliRunner().invoke(command, ["--prepare", "lame"])
    assert made == [1] and after.output == "lame (lame): ready\n" and after.exit_code == 0


def test_prepare_that_leaves_something_to_install_is_no_success(monkeypatch):
    """A script that goes on with '&& edge-derm bench …' must stop here."""
    lame = targets.Target("lame", "lame", lambda: (False, "apt-get it"), lambda *a, **k: {}, lambda: None)
    kind(monkeypatch, "lame", targets=lambda: [lame])
    after = CliRunner().invoke(command, ["--prepare", "lame"])
    assert after.exit_code == 1 and after.output == "lame (lame): run: apt-get it\n"


def test_one_dead_setting_does_not_hide_the_other_targets(monkeypatch):
    monkeypatch.setattr(local, "_here", lambda: False)
    monkeypatch.setenv("EDGE_DERM_TFLITE_RUNTIME_PYTHON", "/no/such/python")
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(command, ["--json", "-"]).output)}
    assert rows["local"]["ready"] and not rows["local:tflite-runtime"]["ready"]
    assert rows["local:tflite-runtime"]["missing"] == "unset EDGE_DERM_TFLITE_RUNTIME_PYTHON"

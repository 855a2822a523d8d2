"""The seam of targets: unknown names list the known, what is not ready says the command, local is always there."""

import json

import pytest
from click.testing import CliRunner

from edge_derm.cli.targets import targets as command
from edge_derm.errors import TargetError
from edge_derm.measure import targets


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

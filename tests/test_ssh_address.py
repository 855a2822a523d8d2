"""What is an address and a client of a board over SSH, and what is refused before anything is sent."""

import pytest

from edge_derm.errors import TargetError
from edge_derm.measure import ssh, targets


def refused(call):
    with pytest.raises(TargetError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize(
    "name",
    [
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://a@-b",
        "ssh://a b",
        "ssh://h:0",
        "ssh://h:70000",
        "ssh://h/x",
        "ssh://a;b@c",
        "ssh://h\n",
    ],
)
def test_an_address_that_is_none_is_refused_before_any_client_sees_it(name):
    assert refused(lambda: ssh.parse(name)) == "ssh-address"


def test_an_address_reads_back_as_it_was_written():
    for name in (
        "ssh://pi@raspberrypi",
        "ssh://raspberrypi.local:2222",
        "ssh://u@[fe80::1]:22",
        "ssh://10.0.0.7",
    ):
        assert str(ssh.parse(name)) == name
    words = ssh.parse("ssh://pi@h:2222").command()
    assert words[-2:] == ["--", "h"] and "BatchMode=yes" in words and "2222" in words


def test_the_shape_of_an_address_is_listed_and_is_no_board(tmp_path):
    row = next(target for target in targets.list_targets() if target.kind == "ssh")
    assert row.name == ssh.TEMPLATE and row.row()["ready"]
    assert refused(lambda: row.bench(tmp_path)) == "ssh-address"


@pytest.mark.parametrize(
    "named, missing, code",
    [
        ("", None, "ssh-unreachable"),
        ("no-such-ssh -x", "unset EDGE_DERM_SSH", "process-missing"),
        ("ssh -i 'a", "unset EDGE_DERM_SSH", "ssh-client"),
    ],
)
def test_a_client_that_is_none_is_named_and_an_empty_one_is_the_usual(
    monkeypatch, tiny_bundle, named, missing, code
):
    monkeypatch.setenv("EDGE_DERM_SSH", named)
    assert ssh.targets()[0].row()["missing"] == missing
    assert refused(lambda: ssh.bench(ssh.parse("ssh://127.0.0.1:1"), tiny_bundle)) == code

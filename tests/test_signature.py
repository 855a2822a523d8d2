"""A signed bundle is opened only as it was signed: a corpus of tampering, each refused with its own code."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'edge-derm[sign]'")
from edge_derm.bundle import open_bundle, signature, update_bundle  # noqa: E402
from edge_derm.bundle.signing import keygen, sign, verify_signature  # noqa: E402
from edge_derm.errors import BundleError  # noqa: E402
from edge_derm.runtime import Classifier  # noqa: E402


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "ours")
    keygen(folder / "theirs")
    return folder


@pytest.fixture
def signed(tiny_bundle: Path, keys: Path) -> Path:
    sign(tiny_bundle, keys / "ours")
    return tiny_bundle


def refusal(bundle: Path, keys: Path) -> str:
    with pytest.raises(BundleError) as caught:
        verify_signature(bundle, keys / "ours.pub")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return caught.value.code


def edit(path: Path, change: Callable[[dict], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_a_signed_bundle_verifies_and_names_its_key(signed: Path, keys: Path) -> None:
    found = verify_signature(signed, keys / "ours.pub")
    assert found.key_id == signature.key_id(next(iter(signature.load_keys([keys / "ours.pub"]).values())))
    assert abs(found.signed_s - time.time()) < 60 and found.expires_s is None


def test_the_signature_is_plain_ed25519_over_one_line(signed: Path, keys: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    fields = json.loads((signed / "signature.json").read_text())
    line = (
        f"edge-derm bundle signature 1 {fields['key_id']} {fields['signed_s']} - {fields['manifest_sha256']}"
    )
    key = load_pem_public_key((keys / "ours.pub").read_bytes())
    key.verify(base64.b64decode(fields["signature"]), line.encode())  # type: ignore[union-attr, call-arg]


def test_keys_are_private_and_never_overwritten(keys: Path) -> None:
    assert stat.S_IMODE((keys / "ours").stat().st_mode) == 0o600
    before = (keys / "ours").read_bytes()
    with pytest.raises(BundleError, match="never overwritten"):
        keygen(keys / "ours")
    assert (keys / "ours").read_bytes() == before


@pytest.mark.parametrize("name", ["model.tflite", "golden.npz", "manifest.json", "signature.json"])
def test_a_flipped_bit_in_any_file_is_refused(signed: Path, keys: Path, name: str) -> None:
    original = (signed / name).read_bytes()
    for place in range(0, len(original), max(1, len(original) // 40)):
        data = bytearray(original)
        data[place] ^= 0x04
        (signed / name).write_bytes(data)
        with pytest.raises(BundleError):
            verify_signature(signed, keys / "ours.pub")


def swap_signature(bundle: Path, keys: Path) -> None:
    other = bundle.with_name("other.bundle")
    shutil.copytree(bundle, other)
    update_bundle(open_bundle(other), temperature=1.5)
    sign(other, keys / "ours")
    shutil.copy(other / "signature.json", bundle / "signature.json")


def rename(bundle: Path, keys: Path) -> None:
    (bundle / "golden.npz").rename(bundle / "renamed.npz")
    edit(
        bundle / "manifest.json",
        lambda fields: fields["files"].update({"renamed.npz": fields["files"].pop("golden.npz")}),
    )


def link_out(bundle: Path, keys: Path) -> None:
    (bundle / "golden.npz").rename(bundle.with_name("golden.npz"))
    (bundle / "golden.npz").symlink_to(bundle.with_name("golden.npz"))


def link_signature(bundle: Path, keys: Path) -> None:
    (bundle / "signature.json").rename(bundle.with_name("s.json"))
    (bundle / "signature.json").symlink_to(bundle.with_name("s.json"))


def signature_field(name: str, value: object) -> Callable[[Path, Path], None]:
    return lambda bundle, keys: edit(bundle / "signature.json", lambda fields: fields.update({name: value}))


TAMPERING: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "unsigned": (lambda b, k: (b / "signature.json").unlink(), "signature-missing"),
    "extra file": (lambda b, k: (b / "extra.bin").write_bytes(b"x"), "bundle-file-extra"),
    "missing file": (lambda b, k: (b / "golden.npz").unlink(), "bundle-file-missing"),
    "altered model": (
        lambda b, k: (b / "model.tflite").write_bytes((b / "model.tflite").read_bytes()[:-1] + b"?"),
        "bundle-file-digest",
    ),
    "altered manifest": (
        lambda b, k: edit(b / "manifest.json", lambda f: f.update(temperature=9.0)),
        "signature-manifest",
    ),
    "renamed file": (rename, "signature-manifest"),
    "link out of the bundle": (link_out, "bundle-file-kind"),
    "link as signature": (link_signature, "bundle-file-kind"),
    "path traversal": (
        lambda b, k: edit(
            b / "manifest.json", lambda f: f["files"].update({"../evil": f["files"]["golden.npz"]})
        ),
        "signature-manifest",
    ),
    "signature of another bundle": (swap_signature, "signature-manifest"),
    "signed by a stranger": (lambda b, k: sign(b, k / "theirs"), "signature-key"),
    "stranger's signature under our name": (
        lambda b, k: (
            sign(b, k / "theirs"),
            signature_field("key_id", next(iter(signature.load_keys([k / "ours.pub"]))))(b, k),
        ),
        "signature-value",
    ),
    "prolonged": (signature_field("expires_s", 2**40), "signature-value"),
    "antedated": (signature_field("signed_s", 1), "signature-value"),
    "newer schema": (signature_field("schema", 2), "signature-schema"),
    "other algorithm": (signature_field("algorithm", "none"), "signature-json"),
    "not JSON": (lambda b, k: (b / "signature.json").write_text("{"), "signature-json"),
    "huge": (lambda b, k: (b / "signature.json").write_bytes(b" " * 5000), "bundle-file-size"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_refused_with_its_own_code(signed: Path, keys: Path, name: str) -> None:
    tamper, code = TAMPERING[name]
    tamper(signed, keys)
    assert refusal(signed, keys) == code


def test_an_expired_signature_is_refused(tiny_bundle: Path, keys: Path) -> None:
    sign(tiny_bundle, keys / "ours", days=1e-9)
    time.sleep(1.1)
    assert refusal(tiny_bundle, keys) == "signature-expired"


def test_a_machine_that_trusts_someone_loads_nothing_else(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGE_DERM_TRUST", str(keys / "ours.pub"))
    assert Classifier.open(signed).labels
    monkeypatch.setenv("EDGE_DERM_TRUST", str(keys / "theirs.pub"))
    with pytest.raises(BundleError) as caught:
        Classifier.open(signed)
    assert caught.value.code == "signature-key"
    monkeypatch.setenv("EDGE_DERM_TRUST", os.pathsep.join([str(keys / "theirs.pub"), str(keys / "ours.pub")]))
    assert Classifier.open(signed).labels
    for nothing in ("", str(tmp_path)):  # told to trust, but nobody: refuse rather than guess
        monkeypatch.setenv("EDGE_DERM_TRUST", nothing)
        with pytest.raises(BundleError) as caught:
            Classifier.open(signed)
        assert caught.value.code == "trust-empty"


def test_a_change_removes_the_signature(signed: Path, keys: Path) -> None:
    update_bundle(open_bundle(signed), temperature=1.2)
    assert not (signed / "signature.json").exists() and refusal(signed, keys) == "signature-missing"
    assert open_bundle(signed).manifest.temperature == 1.2


def test_a_stale_signature_is_noticed_even_where_nobody_is_trusted(signed: Path) -> None:
    edit(signed / "manifest.json", lambda fields: fields.update(temperature=2.0))
    with pytest.raises(BundleError) as caught:
        open_bundle(signed)
    assert caught.value.code == "signature-manifest"


def test_a_damaged_bundle_is_not_signed(tiny_bundle: Path, keys: Path) -> None:
    (tiny_bundle / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(BundleError):
        sign(tiny_bundle, keys / "ours")
    assert not (tiny_bundle / "signature.json").exists()


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n", None])
def test_a_key_that_is_none_is_named(signed: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.pub"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match="wrong.pub") as caught:
        verify_signature(signed, path)
    assert caught.value.code == "trust-key"


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_place_of_a_signature_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        signature.parse(data, Path("signature.json"))
    assert caught.value.code in ("signature-json", "signature-schema")


@pytest.mark.slow
def test_calibrate_says_that_the_signature_is_gone_and_evaluate_says_nothing(signed: Path) -> None:
    from click.testing import CliRunner

    from edge_derm.cli import cli

    update_bundle(open_bundle(signed), labels=("keratosis", "melanoma", "nevus", "vascular"))
    keygen(signed.parent / "key")
    sign(signed, signed.parent / "key")
    runner = CliRunner()
    for expected in (True, False):
        done = runner.invoke(
            cli, ["calibrate", str(signed), "--data", "synthetic:60"], catch_exceptions=False
        )
        assert done.exit_code == 0 and ("sign the bundle again" in done.output) == expected
    done = runner.invoke(cli, ["evaluate", str(signed), "--data", "synthetic:60"], catch_exceptions=False)
    assert done.exit_code == 0 and "signature" not in done.output

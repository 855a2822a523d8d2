"""The list of what a release is made of: valid CycloneDX by its own schema, covered by the signature, and held to."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edge_derm.bundle import open_bundle, update_bundle
from edge_derm.bundle.signing import keygen, sign, verify_signature
from edge_derm.deploy import listing, release, sbom
from edge_derm.errors import BundleError, DataError

HERE = {"python": list(sys.version_info[:3]), "machine": "x86_64", "libc": ["glibc", "2.36"]}
KIND = "{}.{}-x86_64".format(*sys.version_info[:2])


@pytest.fixture
def wheels() -> dict[str, bytes | Path]:
    return {"edge_derm-1-py3-none-any.whl": release.own_wheel()}


def test_the_document_is_valid_by_the_schema_of_cyclonedx(
    tiny_bundle: Path, wheels: dict[str, bytes | Path]
) -> None:
    made = sbom.dumps(sbom.document(open_bundle(tiny_bundle), wheels))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.decode()) is None
    broken = made.decode().replace('"library"', '"lybrary"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None
    assert made == sbom.dumps(sbom.document(open_bundle(tiny_bundle), wheels))


def test_the_document_names_the_model_and_every_package_by_its_digest(
    tiny_bundle: Path, wheels: dict[str, bytes | Path]
) -> None:
    made = sbom.document(open_bundle(tiny_bundle), wheels)
    model = made["metadata"]["component"]
    digest = hashlib.sha256((tiny_bundle / "model.tflite").read_bytes()).hexdigest()
    assert model["type"] == "machine-learning-model" and model["hashes"][0]["content"] == digest
    (library,) = made["components"]
    assert library["purl"].startswith("pkg:pypi/edge-derm@")
    assert library["hashes"][0]["content"] == hashlib.sha256(release.own_wheel()).hexdigest()
    assert made["dependencies"][0] == {"ref": "model", "dependsOn": [library["bom-ref"]]}


def test_a_package_that_the_bundle_does_not_list_is_not_sent(
    tiny_bundle: Path, wheels: dict[str, bytes | Path]
) -> None:
    bundle = open_bundle(tiny_bundle)
    sbom.check(bundle, {"anything.whl": "0" * 64})  # without a list there is nothing to hold to
    listed = update_bundle(bundle, parts={sbom.NAME: (sbom.ROLE, sbom.dumps(sbom.document(bundle, wheels)))})
    (digest,) = (hashlib.sha256(data).hexdigest() for data in wheels.values())  # type: ignore[arg-type]
    sbom.check(listed, {"edge_derm.whl": digest})
    with pytest.raises(BundleError, match="other.whl") as caught:
        sbom.check(listed, {"edge_derm.whl": digest, "other.whl": "0" * 64})
    assert caught.value.code == "sbom-package"
    for text in (b"[]", b"{", b'{"components": [{}]}'):
        with pytest.raises(BundleError) as caught:
            sbom.check(update_bundle(bundle, parts={sbom.NAME: (sbom.ROLE, text)}), {})
        assert caught.value.code == "sbom-json"


@pytest.mark.slow
def test_the_signature_covers_the_list_and_a_release_keeps_to_it(tiny_bundle: Path, tmp_path: Path) -> None:
    keygen(tmp_path / "key")
    sign(tiny_bundle, tmp_path / "key")
    record = listing.attach(tiny_bundle, [KIND])
    assert record["signature_removed"] and record["packages"] > 5
    sign(tiny_bundle, tmp_path / "key")
    made = json.loads((tiny_bundle / sbom.NAME).read_text())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(made)) is None
    assert {"numpy", "ai-edge-litert", "opencv-python-headless", "aiohttp", "cryptography", "edge-derm"} <= {
        component["name"] for component in made["components"]
    }
    libc = listing.board_kind(KIND)["libc"]
    built = release.build(open_bundle(tiny_bundle), {**HERE, "libc": libc}, release.Options(trust=True))
    assert built.record["sbom"] in built.blobs
    (tiny_bundle / sbom.NAME).write_text(json.dumps(made | {"components": []}))
    with pytest.raises(BundleError) as caught:
        verify_signature(tiny_bundle, tmp_path / "key.pub")
    assert caught.value.code in ("bundle-file-size", "bundle-file-digest")


@pytest.mark.parametrize("text", ["", "3.11", "3.9-aarch64", "3.11-riscv64", "x-aarch64", "3.11.2-aarch64"])
def test_a_kind_of_board_that_no_release_is_made_for_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="3.11-aarch64") as caught:
        listing.board_kind(text)
    assert caught.value.code == "board-kind"

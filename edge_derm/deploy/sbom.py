"""What a release is made of, as CycloneDX 1.6 JSON (https://cyclonedx.org/docs/1.6/json/): the model and every package, by digest.

``listing`` puts the document of the boards a bundle is meant for into the bundle, where the signature covers it; a deployment
then sends no package that is not in it (``check``). Nothing in a document depends on when it was made.
"""

from __future__ import annotations

import email.message
import email.parser
import hashlib
import io
import json
import uuid
import zipfile
from pathlib import Path
from typing import Any, Mapping

import edge_derm
from edge_derm.bundle import Bundle
from edge_derm.errors import BundleError

NAME, ROLE = "sbom.cdx.json", "sbom"
_LONGEST_LICENCE = 80  # some packages put the whole text there


def document(bundle: Bundle, packages: Mapping[str, bytes | Path]) -> dict[str, Any]:
    """The CycloneDX document of a model and the wheels (``{file name: bytes or file}``) that run it."""
    libraries = [_library(name, wheel) for name, wheel in sorted(packages.items())]
    body = {
        "metadata": {
            "component": _model(bundle),
            "tools": {
                "components": [{"type": "application", "name": "edge-derm", "version": edge_derm.__version__}]
            },
        },
        "components": libraries,
        "dependencies": [
            {"ref": "model", "dependsOn": [library["bom-ref"] for library in libraries]},
            *({"ref": library["bom-ref"]} for library in libraries),
        ],
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6"}
    return {**head, "serialNumber": uuid.UUID(bytes=digest[:16], version=4).urn, "version": 1, **body}


def dumps(made: Mapping[str, Any]) -> bytes:
    """The bytes of a document."""
    return (json.dumps(made, indent=1, sort_keys=True) + "\n").encode()


def check(bundle: Bundle, digests: Mapping[str, str]) -> None:
    """Pass only packages (``{file name: sha256}``) that the bundle's own document lists; anything, where it has none.

    Raises:
        BundleError: ``sbom-json`` (not a document that 'edge-derm sbom' wrote), ``sbom-package`` (a package it does not list).
    """
    name = bundle.named(ROLE)
    if name is None:
        return
    try:
        components = json.loads(bundle.part(name))["components"]
        known = {entry["content"] for component in components for entry in component["hashes"]}
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{bundle.path / name}: expected the document that 'edge-derm sbom' writes: write it again and sign",
            code="sbom-json",
        ) from error
    strange = sorted(file for file, digest in digests.items() if digest not in known)
    if strange:
        raise BundleError(
            f"{bundle.path / name}: expected only packages it lists, got {strange[0]}: run 'edge-derm sbom' for this kind of "
            "board (or after an update of edge-derm) and sign again",
            code="sbom-package",
        )


def _model(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    made = manifest.provenance
    facts = {
        "recipe": manifest.recipe,
        "variant": manifest.variant,
        "data digest": made.data_digest,
        **{f"made with {name}": version for name, version in sorted(made.versions.items())},
    }
    digest = manifest.files["model.tflite"].sha256
    size = manifest.input.size_px
    card = {
        "task": "classification",
        "inputs": [{"format": f"image, {size} x {size} x 3, {manifest.input.dtype}"}],
        "outputs": [{"format": f"{len(manifest.labels)} classes, {manifest.output.dtype}"}],
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": bundle.path.resolve().name.removesuffix(".bundle"),
        "version": digest[:12],
        "hashes": [_hash(digest)],
        "modelCard": {"modelParameters": card},
        "properties": [
            {"name": f"edge-derm:{name}", "value": str(value)} for name, value in facts.items() if value
        ],
    }


def _library(file: str, wheel: bytes | Path) -> dict[str, Any]:
    data = wheel if isinstance(wheel, bytes) else wheel.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        about = email.parser.BytesHeaderParser().parsebytes(archive.read(name))
    project, version = str(about["Name"]).lower().replace("_", "-"), str(about["Version"])
    purl = f"pkg:pypi/{project}@{version}?file_name={file.replace('+', '%2B')}"
    library = {"type": "library", "bom-ref": purl, "name": project, "version": version, "purl": purl}
    return {**library, "hashes": [_hash(hashlib.sha256(data).hexdigest())], **_licence(about)}


def _licence(about: email.message.Message) -> dict[str, Any]:
    if about["License-Expression"]:
        return {"licenses": [{"expression": str(about["License-Expression"])}]}
    named = str(about["License"] or "").strip()
    short = 0 < len(named) <= _LONGEST_LICENCE and "\n" not in named
    return {"licenses": [{"license": {"name": named}}]} if short else {}


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}

"""Ed25519 signatures over a bundle's manifest, hence over every file it lists. Works offline; keys stay with the user.

``signature.json`` holds who signed (``key_id``), when, until when it counts, the manifest's SHA-256 and the signature over all of
these. What is signed is one line of text, so that no JSON writer can change it:
``edge-derm bundle signature 1 <key_id> <signed_s> <expires_s or -> <manifest sha256>``.

A machine that has been told whom to trust (``EDGE_DERM_TRUST``: public key files or folders of them, joined by ``:``; else
``/etc/edge-derm/trust`` where that folder exists) opens no bundle without a valid signature by one of those keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from edge_derm.errors import BundleError

SIGNATURE = "signature.json"
SCHEMA = 1
LIMIT_BYTES = 4096
TRUST_VARIABLE = "EDGE_DERM_TRUST"
TRUST_FOLDER = Path("/etc/edge-derm/trust")
_FIELDS = {
    "schema": int,
    "algorithm": str,
    "key_id": str,
    "signed_s": int,
    "manifest_sha256": str,
    "signature": str,
}


@dataclass(frozen=True)
class Signature:
    """One signature. ``signed_s``, ``expires_s``: seconds since 1970, UTC; ``expires_s`` None never expires."""

    key_id: str
    signed_s: int
    expires_s: int | None
    manifest_sha256: str
    value: bytes = b""

    def message(self) -> bytes:
        """The bytes that are signed."""
        until = "-" if self.expires_s is None else str(self.expires_s)
        return f"edge-derm bundle signature {SCHEMA} {self.key_id} {self.signed_s} {until} {self.manifest_sha256}".encode()

    def dumps(self) -> str:
        """The text of ``signature.json``."""
        fields = {
            "schema": SCHEMA,
            "algorithm": "ed25519",
            "key_id": self.key_id,
            "signed_s": self.signed_s,
            "expires_s": self.expires_s,
            "manifest_sha256": self.manifest_sha256,
            "signature": base64.b64encode(self.value).decode(),
        }
        return json.dumps(fields, indent=2) + "\n"


def parse(data: bytes, where: Path) -> Signature:
    """Read ``signature.json``; hostile input.

    Raises:
        BundleError: ``signature-json`` (not the fields above), ``signature-schema`` (newer than this reader).
    """
    try:
        fields = json.loads(data.decode("utf-8")) if len(data) <= LIMIT_BYTES else None
    except (ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict) and type(fields.get("schema")) is int and fields["schema"] > SCHEMA:
        raise BundleError(
            f"{where}: expected signature schema {SCHEMA}, got {fields['schema']}: update edge-derm",
            code="signature-schema",
        )
    found = _typed(fields)
    if found is None:
        raise BundleError(
            f"{where}: expected the JSON that 'edge-derm sign' writes, got something else: sign again",
            code="signature-json",
        )
    return found


def _typed(fields: Any) -> Signature | None:
    if (
        not isinstance(fields, dict)
        or set(fields) != {*_FIELDS, "expires_s"}
        or fields["algorithm"] != "ed25519"
    ):
        return None
    right = all(type(fields[name]) is kind for name, kind in _FIELDS.items()) and fields["schema"] == SCHEMA
    until = fields["expires_s"]
    if not right or not (until is None or type(until) is int):
        return None
    try:
        value = base64.b64decode(fields["signature"], validate=True)
    except (binascii.Error, ValueError):
        return None
    return Signature(fields["key_id"], fields["signed_s"], until, fields["manifest_sha256"], value)


def check(
    signature: Signature,
    manifest: bytes,
    keys: Mapping[str, Any] | None,
    where: Path,
    *,
    now_s: float | None = None,
) -> None:
    """Pass only a signature over exactly this manifest; with ``keys``, only one by one of them that has not expired.

    Args:
        keys: ``{key_id: public key}`` as ``load_keys`` returns them.
        now_s: the clock, seconds since 1970; by default the machine's.

    Raises:
        BundleError: ``signature-key``, ``signature-value``, ``signature-manifest``, ``signature-expired``.
    """
    if keys:
        _check_maker(signature, keys, where)
    if hashlib.sha256(manifest).hexdigest() != signature.manifest_sha256:
        raise BundleError(
            f"{where}: signed for another manifest: the bundle was changed after signing; get it again, or sign it again",
            code="signature-manifest",
        )
    if (
        keys
        and signature.expires_s is not None
        and (time.time() if now_s is None else now_s) > signature.expires_s
    ):
        ended = time.strftime("%Y-%m-%d", time.gmtime(signature.expires_s))
        raise BundleError(
            f"{where}: the signature expired on {ended}: sign the bundle again", code="signature-expired"
        )


def _check_maker(signature: Signature, keys: Mapping[str, Any], where: Path) -> None:
    from cryptography.exceptions import InvalidSignature

    key = keys.get(signature.key_id)
    if key is None:
        raise BundleError(
            f"{where}: signed by key {signature.key_id[:32]!r}, expected one of {', '.join(sorted(keys))}: get the bundle "
            "from its maker, or trust that key if you know whose it is",
            code="signature-key",
        )
    try:
        key.verify(signature.value, signature.message())
    except InvalidSignature:
        raise BundleError(
            f"{where}: the signature is not one by key {signature.key_id}: it was altered or taken from elsewhere",
            code="signature-value",
        ) from None


def trusted() -> Mapping[str, Any] | None:
    """The keys this machine was told to trust, or None if it was told nothing.

    Raises:
        BundleError: ``trust-empty``, ``trust-key``, ``trust-package``: told, but no key can be used; nothing is opened then.
    """
    told = os.environ.get(TRUST_VARIABLE)
    if told is None and not TRUST_FOLDER.is_dir():
        return None
    return load_keys(
        [Path(part) for part in told.split(os.pathsep) if part] if told is not None else [TRUST_FOLDER]
    )


def load_keys(paths: Sequence[Path]) -> Mapping[str, Any]:
    """``{key_id: public key}`` from PEM files and folders of ``*.pub``.

    Raises:
        BundleError: ``trust-empty``, ``trust-key``, ``trust-package``.
    """
    found = [file for path in paths for file in (sorted(path.glob("*.pub")) if path.is_dir() else [path])]
    if not found:
        raise BundleError(
            f"trust: expected public keys (*.pub) in {', '.join(map(str, paths)) or TRUST_VARIABLE}, found none: put the "
            f"signer's KEY.pub there, or unset {TRUST_VARIABLE}",
            code="trust-empty",
        )
    return {key_id(key): key for key in map(_public_key, found)}


def key_id(public_key: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


def _public_key(path: Path) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise BundleError(
            "signatures are asked for here, but the package cryptography is missing: pip install 'edge-derm[sign]'",
            code="trust-package",
        ) from error
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: expected an Ed25519 public key in PEM, as 'edge-derm keygen' writes: {error}",
            code="trust-key",
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{path}: expected an Ed25519 public key, got another kind", code="trust-key")
    return key

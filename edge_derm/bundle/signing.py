"""Making keys and signatures: what the owner of a bundle does at home; a board only verifies (``signature``)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_derm import files
from edge_derm.bundle.signature import SIGNATURE, Signature, key_id, load_keys, parse
from edge_derm.bundle.store import MANIFEST, open_bundle, open_unsigned, read_signature
from edge_derm.errors import BundleError


def keygen(out: Path) -> str:
    """Write a new private key ``out`` (mode 600, PEM, not encrypted) and ``out.pub``; return the key's id.

    Raises:
        BundleError: ``key-overwrite``: a key is never overwritten.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = out.with_name(out.name + ".pub")
    for path in (out, public):
        if path.exists():
            raise BundleError(
                f"{path}: exists already, and a key is never overwritten: choose another name",
                code="key-overwrite",
            )
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(secret)
    text = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files.write_bytes(public, text)
    return key_id(key.public_key())


def sign(bundle: Path, key_file: Path, *, days: float | None = None) -> Signature:
    """Verify the bundle and write its ``signature.json``, whole or not at all.

    Args:
        days: how long the signature counts; None: for ever.

    Raises:
        BundleError: what ``open_bundle`` raises but for the signature; ``key-file``.
    """
    opened = open_unsigned(bundle)
    key = _private_key(key_file)
    manifest = (opened.path / MANIFEST).read_bytes()
    now_s = int(time.time())
    unsigned = Signature(
        key_id(key.public_key()),
        now_s,
        None if days is None else now_s + int(days * 86400),
        hashlib.sha256(manifest).hexdigest(),
    )
    signed = replace(unsigned, value=key.sign(unsigned.message()))
    where = opened.path.resolve()
    temporary = where.parent / f".{where.name}.{SIGNATURE}.{os.getpid()}"
    try:
        files.write_text(temporary, signed.dumps())
        os.replace(temporary, where / SIGNATURE)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return signed


def verify_signature(bundle: Path, keys: Path) -> Signature:
    """Open ``bundle`` as a machine that trusts ``keys`` (a .pub file, or a folder of them) would.

    Raises:
        BundleError: everything ``open_bundle`` and ``signature.check`` raise.
    """
    trust = load_keys([keys])
    opened = open_bundle(bundle, trust=trust)
    return parse(read_signature(opened.path), opened.path / SIGNATURE)


def _private_key(path: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "not an unencrypted private key in PEM"
        raise BundleError(
            f"{path}: expected the key file that 'edge-derm keygen' wrote: {reason}", code="key-file"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path}: expected an Ed25519 private key, got another kind", code="key-file")
    return key

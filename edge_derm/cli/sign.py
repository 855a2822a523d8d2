"""Commands for signatures: ``keygen``, ``sign``, ``verify-signature``."""

from __future__ import annotations

from pathlib import Path

import click

from ..bundle import signing
from . import options as shared


@click.command()
@shared.out_option("The private key; its public half goes beside it, with .pub at the end.")
@shared.json_option
def keygen(out: Path, json_file: str | None) -> None:
    """A new Ed25519 key pair. Keep the private half to yourself; boards get KEY.pub.

    \b
    Example:  edge-derm keygen --out ~/keys/release
    """
    made = signing.keygen(out)
    record = {"key_id": made, "private": str(out), "public": f"{out}.pub"}
    shared.emit(record, json_file, f"key {made}: {out} (keep it secret), {out}.pub (give it to your boards)")


@click.command()
@shared.bundle_argument
@shared.path_option("--key", "KEY", "The private key.", required=True)
@click.option(
    "--days", type=click.FloatRange(0, min_open=True), help="How long it counts (default: for ever)."
)
@shared.json_option
def sign(bundle: Path, key: Path, days: float | None, json_file: str | None) -> None:
    """Sign a bundle after verifying it: the manifest, hence every file it lists.

    Whatever changes the bundle later (calibrate) removes the signature.

    \b
    Example:  edge-derm sign d1.bundle --key ~/keys/release
    """
    made = signing.sign(bundle, key, days=days)
    record = {"signed": True, "key_id": made.key_id, "signed_s": made.signed_s, "expires_s": made.expires_s}
    shared.emit(record, json_file, f"{bundle}: signed by key {made.key_id}")


@click.command()
@shared.bundle_argument
@shared.path_option("--trust", "KEY.pub", "A public key, or a folder of them (*.pub).", required=True)
@shared.json_option
def verify_signature(bundle: Path, trust: Path, json_file: str | None) -> None:
    """Whether every file of a bundle is the one that a trusted key signed; exit status 1 if not.

    \b
    Example:  edge-derm verify-signature d1.bundle --trust release.pub
    """
    found = signing.verify_signature(bundle, trust)
    record = {
        "signed": True,
        "key_id": found.key_id,
        "signed_s": found.signed_s,
        "expires_s": found.expires_s,
    }
    shared.emit(record, json_file, f"{bundle}: whole, and signed by key {found.key_id}")

"""The half of a deployment that runs on the board: its own python3 (3.10 or newer) and nothing else.

Everything lives under one root::

    agent.py              this program, for the start of the service
    store/<sha256>        what was uploaded, by content; ``<sha256>.part`` while it comes
    unpacked/<sha256>/    a wheel, unpacked once; releases hard-link its files
    releases/<id>/        release.json, sbom.cdx.json, selftest.json, bundle/, venv/: complete, verified, self-tested, read-only
    current               symbolic link to the release that runs; switched by one rename
    previous              the one before it
    pending.json          while a new ``current`` has not shown its health: what to go back to
    trust/*.pub           keys of whom this board accepts bundles (if any)

A process killed or a board without power at any step leaves ``current`` pointing at a complete release. What was half-made is
removed by the next visit, and a ``current`` that never became healthy is taken back by the next start of the service (``settle``)
or the next visit, whichever is first.
"""

import re
from pathlib import Path

# Each builds on those before it, by names that none of them has twice.
MODULES = ("refusal", "files", "store", "releases", "service", "board", "probe", "conversation")
_BETWEEN = re.compile(r"^from \.\w+ import (\([^)]*\)|[^\n]*)\n", re.MULTILINE)


def source() -> str:
    """The program as the board gets it and keeps it: one file to read, the modules without their imports of one another."""
    texts = [(Path(__file__).parent / f"{module}.py").read_text("utf-8") for module in MODULES]
    return "\n\n".join([f'"""{__doc__}"""\n', *(_BETWEEN.sub("", text) for text in texts)])

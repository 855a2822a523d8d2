"""The drift watch: a bundle's reference (looks at its calibration images), and the camera's looks held against it.

The running camera judges blocks of ``BLOCK`` looks, each once: without drift, at most one block in a hundred is called drifted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from typing import Any, Sequence

from edge_derm.bundle import Bundle
from edge_derm.bundle.fields import plain
from edge_derm.camera.frames import Frame
from edge_derm.camera.log import describe
from edge_derm.camera.looks import FIGURES, Gatherer, Look, sample
from edge_derm.camera.loop import Answer
from edge_derm.errors import BundleError
from edge_derm.trust import drift

NAME, ROLE = "reference.json", "reference"
SCHEMA, BLOCK, FALSE_ALARM = 1, 100, 0.01


def dumps(bundle: Bundle, looks: Sequence[Look]) -> bytes:
    """The bytes of ``reference.json``."""
    rows = [[label, *(round(value, 4) for value in figures)] for label, figures in looks]
    head = {"schema": SCHEMA, "decides": _decides(bundle), "figures": FIGURES}
    return (json.dumps({**head, "looks": rows}) + "\n").encode()


def reference(bundle: Bundle) -> drift.Sample | None:
    """What the bundle was calibrated on; None where it was never told.

    Raises:
        BundleError: ``reference-json``; ``reference-stale``: calibrated or exchanged since.
    """
    name = bundle.named(ROLE)
    if name is None:
        return None
    where = bundle.path / name
    try:
        found = json.loads(bundle.part(name))
        if found["schema"] != SCHEMA or found["figures"] != list(FIGURES):
            raise ValueError("of another version")
        looks = [(str(row[0]), tuple(float(value) for value in row[1:])) for row in found["looks"]]
        stale = found["decides"] != _decides(bundle)
        known = sample(looks, bundle.manifest.labels)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(
            f"{where}: expected what 'edge-derm drift --learn' writes, got something else: learn again",
            code="reference-json",
        ) from error
    if stale:
        raise BundleError(
            f"{where}: learnt before the model or its calibration was changed: run 'edge-derm drift --learn' again",
            code="reference-stale",
        )
    return known


def _decides(bundle: Bundle) -> str:
    """A digest of all that turns pixels into probabilities."""
    manifest = bundle.manifest
    facts = [manifest.files["model.tflite"].sha256, manifest.temperature, plain(manifest.calibration)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Judged:
    verdict: str
    drifted: tuple[str, ...]
    blocks: int
    drifted_blocks: int


class Watch:
    """A sink of the loop; ``state`` is the health endpoint's field. Fixed memory; drift never makes a service unhealthy."""

    def __init__(self, known: drift.Sample, labels: Sequence[str]) -> None:
        self._known, self._labels = known, tuple(labels)
        self._gatherer, self._looks = Gatherer(), list[Look]()
        self._judged = _Judged("waiting", (), 0, 0)
        self._lock = threading.Lock()

    def __call__(self, frame: Frame, answer: Answer) -> None:
        """Take one frame; a block that is full is judged (some milliseconds, once in a hundred looks)."""
        look = self._gatherer.add(describe(frame, answer), frame.taken_s)
        if look is None:
            return
        with self._lock:
            self._looks.append(look)
        if len(self._looks) == BLOCK:
            self._judge()

    def _judge(self) -> None:
        now = sample(self._looks, self._labels)
        found = drift.compare(self._known, now, len(self._labels), false_alarm=FALSE_ALARM)
        with self._lock:
            before = self._judged
            drifted = before.drifted_blocks + (found["verdict"] == "drift")
            self._judged = _Judged(found["verdict"], tuple(found["drifted"]), before.blocks + 1, drifted)
            self._looks = []

    def state(self) -> dict[str, Any]:
        """``verdict`` (``waiting`` for the first block, ``none``, ``drift``) of the last full block, and what drifted."""
        with self._lock:
            judged, open_looks = self._judged, len(self._looks)
        return {
            "verdict": judged.verdict,
            "drifted": list(judged.drifted),
            "blocks": judged.blocks,
            "drifted_blocks": judged.drifted_blocks,
            "looks": open_looks,
            "block": BLOCK,
            "false_alarm": FALSE_ALARM,
        }

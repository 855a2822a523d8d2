"""The steps of the drift watch: ``learn`` what a bundle was calibrated on, ``drift`` of a camera's log against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .bundle import open_bundle, update_bundle
from .calibrating import calibration_images
from .camera import looks, watch
from .camera.quality import assess
from .errors import DataError
from .runtime import Classifier
from .runtime.classifier import decide_by
from .trust import drift as testing

MOST = 1000  # images of the reference: more would only grow the file


def learn(path: Path, *, data: str, part: str = "auto", seed: int = 0) -> dict[str, Any]:
    """Write ``reference.json`` into the bundle: one image a lesion, of those that the camera's gate would let through.

    Raises:
        DataError: the data; ``reference-small``. BundleError: of the bundle.
    """
    bundle = open_bundle(path)
    chosen = calibration_images(bundle, data, part)
    firsts = np.unique(np.asarray(chosen.groups), return_index=True)[1]
    order = np.random.default_rng(seed).permutation(chosen.indices[np.sort(firsts)])
    classifier = Classifier.open(bundle)
    found, refused = list[looks.Look](), 0
    for index in order:
        image = chosen.dataset.read(index)
        quality = assess(image, order="rgb")
        if quality.problem:
            refused += 1
            continue
        p = classifier.predict(chosen.dataset.images(classifier.size_px, [index]))
        decided = decide_by(bundle.manifest, p)[0]
        measured = (getattr(quality, name) for name in looks.QUALITY)
        found.append((decided.label, (decided.confidence, decided.entropy, *measured)))
        if len(found) == MOST:
            break
    if len(found) < testing.LEAST:
        raise DataError(
            f"{data}: expected {testing.LEAST} lesions or more that the camera's quality gate lets through, got {len(found)} "
            f"({refused} refused): give more images",
            code="reference-small",
        )
    signed = (bundle.path / "signature.json").exists()
    update_bundle(bundle, parts={watch.NAME: (watch.ROLE, watch.dumps(bundle, found))})
    record = {"record": "drift-reference", "bundle": str(path), "part": chosen.part, "images": len(found)}
    return {**record, "refused": refused, "signature_removed": signed}


def drift(path: Path, *, log: Path, against: Path | None = None, false_alarm: float = 0.01) -> dict[str, Any]:
    """A log's looks against the bundle's reference, or against another log (``against``) from when all was well.

    Raises:
        DataError: ``log-…``. BundleError: ``reference-missing``, ``reference-stale``, ``reference-json``.
    """
    bundle = open_bundle(path)
    labels = bundle.manifest.labels
    known = watch.reference(bundle) if against is None else looks.sample(looks.read_log(against)[0], labels)
    if known is None or len(known) < testing.LEAST:
        raise DataError(
            f"{against or path}: expected at least {testing.LEAST} looks to compare with, got {len(known or ())}: run "
            "'edge-derm drift --learn DATA' once, or give --against a longer log",
            code="reference-missing",
        )
    seen, torn = looks.read_log(log)
    found = testing.compare(known, looks.sample(seen, labels), len(labels), false_alarm=false_alarm)
    head = {"record": "drift", "bundle": str(path), "log": str(log), "against": str(against or watch.NAME)}
    counts = {"looks": len(seen), "reference_looks": len(known), "torn_lines": torn, "least": testing.LEAST}
    return {**head, **counts, "labels": list(labels), "false_alarm": false_alarm, **found}

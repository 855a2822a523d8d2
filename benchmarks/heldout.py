"""What the int8 file of a run is worth on the lesions held out of its training, and the same over several splits."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
from students import mean_of_each as mean

from edge_derm import calibrating, judging
from edge_derm.bundle import Bundle
from edge_derm.modeling import runs
from edge_derm.runtime import Classifier
from edge_derm.runtime.decision import confidences, prediction_set
from edge_derm.runtime.sampling import Sampler, Sampling
from edge_derm.selection import Selection, select
from edge_derm.trust import calibration
from edge_derm.trust.evaluate import figures

VIEWS = 8
KERNELS = {"xnnpack": "default", "reference": "reference"}
KEPT = (
    "variant",
    "dilation",
    "alpha",
    "size_px",
    "parameters",
    "macs",
    "best_epoch",
    "validation",
    "seconds",
    "versions",
)


def judge(run: Path, bundle: Bundle, spec: str, seed: int) -> dict[str, Any]:
    """What the run's own record says, and the figures of the float model and of the file on the lesions held out."""
    record = runs.load(run)[1]
    labels = bundle.manifest.labels
    chosen = select(spec, part="test", provenance=bundle.manifest.provenance, labels=labels, seed=seed)
    pixels = chosen.pixels(bundle.manifest.input.size_px)
    scores = {"float": judging.parent_probabilities(run, chosen, bundle)}
    for name, kernels in KERNELS.items():
        scores[f"int8_{name}"] = Classifier.open(bundle, kernels=kernels).predict(pixels)
    decided = {name: p.argmax(axis=1) for name, p in scores.items()}
    return {
        **{key: record.get(key) for key in KEPT},
        "epochs": len(record["history"]),
        "bytes": (bundle.path / "model.tflite").stat().st_size,
        "images": len(pixels),
        "test": {name: worth(p, chosen, labels, seed) for name, p in scores.items()},
        "views": worth(seen_turned(bundle, pixels), chosen, labels, seed),
        "calibrated": calibrated(bundle, spec, pixels, chosen.targets(labels), seed),
        "agreement": {name: float((decided[f"int8_{name}"] == decided["float"]).mean()) for name in KERNELS},
    }


def worth(p: Any, chosen: Selection, labels: Any, seed: int) -> dict[str, Any]:
    """Accuracy, balanced accuracy and the AUROC of each class, with 95 % intervals."""
    told = figures(p, chosen.targets(labels), labels, chosen.groups, seed=seed)
    return {key: told[key] for key in ("accuracy", "balanced_accuracy", "auroc")}


def seen_turned(bundle: Bundle, pixels: np.ndarray) -> np.ndarray:
    """Probabilities [N, C]: the mean over the 8 symmetries of each image, as ``predict --tta 8`` takes it."""
    sampler = Sampler([bundle], Sampling(tta=VIEWS))
    return np.concatenate([sampler.sample(image[None]).mean(axis=0) for image in pixels])


def calibrated(
    bundle: Bundle, spec: str, pixels: np.ndarray, targets: np.ndarray, seed: int
) -> dict[str, Any]:
    """What ``calibrate`` makes of the bundle (a copy of it), fitted on its validation part: on the lesions held out."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "calibrated.bundle"
        shutil.copytree(bundle.path, copy)
        record = calibrating.calibrate(copy, data=spec, strange=0, seed=seed)
        classifier = Classifier.open(copy)
    p = classifier.predict(pixels)
    named = classifier.named(p)
    stated, right = confidences(p, named), named == targets
    inside = prediction_set(p, record["conformal_quantile"])[np.arange(len(p)), targets]
    return {
        "scaling": record["scaling"],
        "accuracy": float(right.mean()),
        "ece": calibration.ece(stated, right),
        "ece_noise": calibration.noise(stated, seed=seed),
        "adaptive_ece": calibration.adaptive_ece(stated, right),
        "reliability": calibration.reliability(stated, right, bins=calibration.BINS),
        "coverage": float(inside.mean()),
        "wanted_coverage": 1 - record["miscoverage"],
    }


def pooled(bins: Sequence[Mapping[str, Any]]) -> float:
    """The expected calibration error of several ``reliability`` tables together."""
    gaps: dict[float, float] = defaultdict(float)
    for row in bins:
        gaps[row["low"]] += row["n"] * (row["accuracy"] - row["confidence"])
    return sum(abs(gap) for gap in gaps.values()) / sum(row["n"] for row in bins)


def over_splits(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the same model on several splits: mean with Student's 95 % interval of each figure of the int8 file."""
    tests = [model["test"]["int8_xnnpack"] for model in models]
    values = {label: [test["auroc"][label]["value"] for test in tests] for label in tests[0]["auroc"]}
    known = {label: each for label, each in values.items() if None not in each}
    return {
        **{key: mean([test[key]["value"] for test in tests]) for key in ("accuracy", "balanced_accuracy")},
        "auroc": {label: mean(each) for label, each in known.items()},
        "agreement": mean([model["agreement"]["xnnpack"] for model in models]),
        "views": {
            "balanced_accuracy": mean([model["views"]["balanced_accuracy"]["value"] for model in models])
        },
        "calibrated": {
            **{key: mean([model["calibrated"][key] for model in models]) for key in ("ece", "coverage")},
            "ece_debiased": mean(
                [calibration.debiased(model["calibrated"]["reliability"]) for model in models]
            ),
            "ece_pooled": pooled([row for model in models for row in model["calibrated"]["reliability"]]),
        },
    }

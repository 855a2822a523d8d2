"""How a model stands under universal perturbations: rows of figures with intervals, from what it answers.

``fooling_rate`` is the share of answers that change; ``success_rate`` the share of *all* images that get the target's label,
to be read against ``success_baseline``, the share that get it unperturbed. Every row carries the random control of the same
norm that fools most (``control``) and its paired difference, lesions drawn whole.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from edge_derm.errors import GateError
from edge_derm.trust import attack
from edge_derm.trust.evaluate import balanced
from edge_derm.trust.intervals import proportion, resample

# The gate's limits: what each is of, over all rows wherever they were measured.
LIMITS = {
    "max_fooling_rate": "largest share of answers that a non-targeted perturbation changes",
    "max_over_control": "largest difference to the hardest random control",
    "max_success_rate": "largest share of images that a targeted perturbation brings to its class",
    "min_accuracy": "smallest accuracy under any perturbation",
}
FEW = 100  # images to craft from, below which a note says so
Answer = Callable[[np.ndarray], np.ndarray]  # float32 pixels [N, S, S, 3] in 0 … 255 → label index, int64 [N]
RESAMPLES = 1000


def name_of(norm: float) -> str | int:
    """The norm as JSON has it: 2 or ``inf``."""
    return "inf" if math.isinf(norm) else 2


def compare(
    crafted: Mapping[str, Sequence[attack.Perturbation]],
    controls: Mapping[str, Sequence[attack.Perturbation]],
    *,
    images: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str],
    zeta: float,
    where: str,
    answer: Answer,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of one place the model runs at.

    Args:
        crafted: perturbations by their source (``training``, ``natural``).
        controls: draws of random perturbations by kind; a row is set against those of its norm.
        images: uint8 [N, S, S, 3] that nothing was crafted from. targets: their true labels, for accuracies only.
    """
    clean = answer(images.astype(np.float32))
    noisy = {
        (kind, draws[0].norm): np.stack([answer(attack.add(images, r.pixels)) for r in draws])
        for kind, draws in controls.items()
    }
    rows = []
    for source, perturbations in crafted.items():
        for r in perturbations:
            random = {kind: answers for (kind, norm), answers in noisy.items() if norm == r.norm}
            answers = answer(attack.add(images, r.pixels))
            row = figures(answers, clean, random, targets, labels, r.target, groups=groups, seed=seed)
            about = {
                "source": source,
                "targeted": None if r.target is None else labels[r.target],
                "aim": None if r.aim is None else labels[r.aim],
                "norm": name_of(r.norm),
                "zeta": zeta,
                "radius": r.radius,
                "size": attack.size_of(r.pixels, r.norm),
                "crafted_from": r.images,
                "where": where,
            }
            rows.append({**about, **row})
    return rows


def figures(
    answers: np.ndarray,
    clean: np.ndarray,
    random: Mapping[str, np.ndarray],
    targets: np.ndarray,
    labels: Sequence[str],
    target: int | None,
    *,
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """The figures of one perturbation at one place.

    Args:
        answers, clean: label indices [N] with and without it. random: those under draws of each control, [draws, N].
    """
    reached = attack.accept(answers, clean, target)
    by_kind = {kind: attack.accept(drawn, clean, target).mean(axis=0) for kind, drawn in random.items()}
    hardest = max(by_kind, key=lambda kind: float(by_kind[kind].mean()))
    difference = reached - by_kind[hardest]
    return {
        "fooling_rate": proportion(int((answers != clean).sum()), len(clean)),
        "success_rate": None if target is None else proportion(int(reached.sum()), len(clean)),
        "success_baseline": None if target is None else float((clean == target).mean()),
        "control": {
            "kind": hardest,
            "draws": len(random[hardest]),
            "fooling_rate": control_rate(random[hardest] != clean, groups, seed),
            "success_rate": (
                None if target is None else control_rate(random[hardest] == target, groups, seed)
            ),
        },
        "controls": {kind: float((drawn != clean).mean()) for kind, drawn in random.items()},
        "over_control": resample(
            lambda i: float(difference[i].mean()), groups, seed=seed, resamples=RESAMPLES
        ),
        "times_control": resample(
            lambda i: quotient(reached[i].mean(), by_kind[hardest][i].mean()),
            groups,
            seed=seed,
            resamples=RESAMPLES,
        ),
        "accuracy": {
            "clean": proportion(int((clean == targets).sum()), len(clean)),
            "perturbed": proportion(int((answers == targets).sum()), len(clean)),
            "balanced_clean": balanced(clean, targets),
            "balanced_perturbed": balanced(answers, targets),
        },
        "dominant": dominant(answers, labels),
        "dominant_clean": dominant(clean, labels),
    }


def control_rate(hits: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """Mean over draws of a control, [draws, N] bool, with a bootstrap over lesions."""
    mean = hits.mean(axis=0)
    return resample(lambda i: float(mean[i].mean()), groups, seed=seed, resamples=RESAMPLES)


def quotient(a: float, b: float) -> float | None:
    """a / b, or None where b is 0."""
    return float(a / b) if b > 0 else None


def dominant(answers: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Share of each label among the answers, the most frequent first; those never given are left out."""
    counts = np.bincount(answers, minlength=len(labels))
    order = np.argsort(-counts, kind="stable")
    return {labels[i]: float(counts[i] / len(answers)) for i in order if counts[i]}


def visibility(images: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """How visible a perturbation is: mean PSNR in dB and mean SSIM over images, after rounding to 8 bits."""
    pairs = [(image, np.rint(attack.add(image, r)).astype(np.uint8)) for image in images]
    return {
        "psnr_db": float(np.mean([psnr(a, b) for a, b in pairs])),
        "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
    }


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; at most 99 (equal images)."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity, mean over channels (Wang et al. 2004: Gaussian window σ = 1.5, 11 × 11, inside the border)."""
    import cv2

    x, y = a.astype(np.float64), b.astype(np.float64)

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top, bottom = (2 * mx * my + c1) * (2 * cov + c2), (mx * mx + my * my + c1) * (vx + vy + c2)
    return float((top / bottom).mean())


def notes(
    rows: Sequence[Mapping[str, Any]], sources: Mapping[str, int], twin: Mapping[str, Any] | None = None
) -> list[str]:
    """What a reader must know before the figures.

    Args:
        sources: how many images each had to craft from. twin: how often the twin of a file answers like it.
    """
    found = []
    if twin is not None:
        found.append(
            f"no float parent: the gradient is that of the file's own weights, whose twin answers like it on {twin['value']:.1%} "
            "of the images; the parent's (--against) may find stronger perturbations"
        )
    for where in dict.fromkeys(row["where"] for row in rows):
        clean = next(row["dominant_clean"] for row in rows if row["where"] == where)
        if len(clean) == 1:
            label = next(iter(clean))
            found.append(
                f"{where}: the model says {label} to every clean image, so a fooling rate of 0 is no sign of strength"
            )
    found += [
        f"{name}: crafted from {count} images only; more make stronger perturbations, so these rows flatter the model"
        for name, count in sources.items()
        if count < FEW
    ]
    return found


def check_gate(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> GateError | None:
    """The error that names every limit the rows break, or None; what was not measured breaks its limit."""
    free = [row["fooling_rate"]["value"] for row in rows if row["targeted"] is None]
    aimed = [row["success_rate"]["value"] for row in rows if row["targeted"] is not None]
    measured = {
        "max_fooling_rate": max(free, default=None),
        "max_over_control": max((row["over_control"]["value"] for row in rows), default=None),
        "max_success_rate": max(aimed, default=None),
        "min_accuracy": min((row["accuracy"]["perturbed"]["value"] for row in rows), default=None),
    }
    broken = []
    for name, limit in limits.items():
        value, side = measured[name], "most" if name.startswith("max") else "least"
        if value is None:
            broken.append(f"{name}: not measured (give --target-class)")
        elif value > limit if side == "most" else value < limit:
            broken.append(f"{name}: expected at {side} {limit:g}, got {value:.4g}")
    return GateError("gate failed: " + "; ".join(broken), code="gate-failed") if broken else None

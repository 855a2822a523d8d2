"""Is ``trust.attack.craft`` as strong as the Adversarial Robustness Toolbox, and how much faster?

    pip install --no-deps --target ART adversarial-robustness-toolbox==1.20.1 && pip install --target ART tqdm
    python benchmarks/audit_vs_art.py RUN --data DIR --art ART [--images N] [--seeds N] [--out FILE.json]

Both get the same float model, compiled by the same function (``Differentiable.scores``), the same unlabelled training images,
norm, radius ξ (ζ = 4 %) and sign-gradient step, one after the other in one process, the order of the two changing with the case.
Ours takes one pass, and ends it early as ``--enough`` says; ART takes up to five, and one for comparison. Every perturbation is
judged by the same code on images that nobody saw. The order of the images moves a rate by a point or two, so figures are means
over ``--seeds`` orders. The time is that of crafting, after one warm-up call of each model: by the clock, and of the processor,
which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Callable

import numpy as np

from edge_derm import auditing, files, origin
from edge_derm.measure.environment import environment
from edge_derm.trust import attack
from edge_derm.trust.audit import name_of
from edge_derm.trust.intervals import proportion, resample

CASES = ((math.inf, None), (2.0, "mel"), (2.0, None), (math.inf, "nv"))
SHARE = 0.2


def main() -> None:
    """Measure, print the record, and write it if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--art", type=Path, required=True, help="folder that holds ART")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--judged", type=int, default=400)
    parser.add_argument("--passes", type=int, default=1, help="ours")
    parser.add_argument("--art-passes", type=int, default=5, help="ART's max_iter")
    parser.add_argument("--enough", type=float, default=0.95, help="ours")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=len(CASES))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    sys.path.append(str(asked.art))
    record = measure(asked)
    if asked.out:
        files.write_json(asked.out, record)
    json.dump(record, sys.stdout, indent=2)
    print()


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """The whole record."""
    from edge_derm.modeling import runs
    from edge_derm.modeling.gradients import Differentiable

    model, run = runs.load(asked.run)
    parent, labels = Differentiable(model), tuple(run["classes"])
    subject = auditing.Subject(parent, labels, parent.size_px, origin.provenance_of(asked.run, run), {})
    judged, sources = auditing.choose(subject, asked.data, None, "auto", asked.judged, asked.images, 0)
    images, unseen = (chosen.pixels(parent.size_px) for chosen in (sources["training"], judged))
    clean = parent.predict(unseen).argmax(axis=1)
    parent.gradient(images[:2], np.zeros(2, np.int64))
    theirs = art_classifier(parent, len(labels))
    rows = []
    for number, (norm, name) in enumerate(CASES[: asked.cases]):
        radius = attack.radius_of(unseen, norm=norm, zeta=0.04)
        target = None if name is None else labels.index(name)
        given = images, norm, radius, target

        def moves(r: np.ndarray) -> np.ndarray:
            return attack.accept(parent.predict(attack.add(unseen, r)).argmax(axis=1), clean, target)

        makers: dict[str, Callable[[int], np.ndarray]] = {
            "edge_derm": lambda seed: ours(parent, *given, asked.passes, asked.enough, seed),
            "art": lambda seed: art(theirs, *given, asked.art_passes, seed),
            "art_one_pass": lambda seed: art(theirs, *given, 1, seed),
        }
        order = list(makers)[:: 1 if number % 2 else -1]
        made = {who: timed(makers[who], moves, norm, asked.seeds) for who in order}
        about = {"norm": name_of(norm), "targeted": name, "radius": radius}
        rows.append({**about, **compared(made, judged.groups)})
        print(rows[-1], file=sys.stderr, flush=True)
    return {
        "record": "audit_vs_art",
        "model": {"variant": run["variant"], "alpha": run["alpha"], "size_px": run["size_px"]},
        "crafted_from": len(images),
        "judged_on": len(unseen),
        "passes": {"edge_derm": asked.passes, "art": asked.art_passes},
        "enough": asked.enough,
        "seeds": asked.seeds,
        "step_share": SHARE,
        "rows": rows,
        "versions": {"art": art_version(), **run["versions"]},
        "environment": environment(),
        "command": "python benchmarks/audit_vs_art.py RUN --data DIR --art ART "
        f"--images {asked.images} --judged {asked.judged} --passes {asked.passes} "
        f"--enough {asked.enough} --art-passes {asked.art_passes} --seeds {asked.seeds} --cases {asked.cases}",
    }


def timed(
    make: Callable[[int], np.ndarray], moves: Callable[[np.ndarray], np.ndarray], norm: float, seeds: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """How often each judged image is moved, [N] from 0 to 1, and the figures: means over seeds."""
    clock, used, sizes, moved = [], [], [], []
    for seed in range(seeds):
        start, before = time.perf_counter(), time.process_time()
        r = make(seed)
        clock.append(time.perf_counter() - start)
        used.append(time.process_time() - before)
        sizes.append(attack.size_of(r, norm))
        moved.append(moves(r))
    return np.mean(moved, axis=0), {
        "seconds": round(float(np.mean(clock)), 3),
        "cpu_seconds": round(float(np.mean(used)), 3),
        "size": max(sizes),
        "rate": round(float(np.mean(moved)), 5),
        "rates": [proportion(int(one.sum()), len(one)) for one in moved],
    }


def compared(made: dict[str, tuple[np.ndarray, dict[str, Any]]], groups: Any) -> dict[str, Any]:
    """The figures of everybody, and ours against ART's: difference in rate, bootstrap over lesions; how many times less time."""
    gap = made["edge_derm"][0] - made["art"][0]
    figures = {who: made[who][1] for who in ("edge_derm", "art", "art_one_pass")}
    times = {
        key: round(figures["art"][of] / figures["edge_derm"][of], 2)
        for key, of in (("times_faster", "seconds"), ("times_less_cpu", "cpu_seconds"))
    }
    return {**figures, "rate_difference": resample(lambda i: float(gap[i].mean()), groups), **times}


def ours(
    parent: Any,
    images: np.ndarray,
    norm: float,
    radius: float,
    target: int | None,
    passes: int,
    enough: float,
    seed: int,
) -> np.ndarray:
    """The perturbation this package makes."""
    return attack.craft(
        images,
        predict=parent.predict,
        gradient=parent.gradient,
        norm=norm,
        radius=radius,
        target=target,
        share=SHARE,
        passes=passes,
        batch=16,
        enough=enough,
        seed=seed,
    ).pixels


def art_classifier(parent: Any, classes: int) -> Any:
    """The model as ART takes it: pixels from 0 to 255 in, logits out, compiled."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.estimators.classification import TensorFlowV2Classifier

    size_px = parent.size_px
    call = tf.function(
        parent.scores, input_signature=[tf.TensorSpec((None, size_px, size_px, 3), tf.float32)]
    )
    classifier = TensorFlowV2Classifier(
        model=lambda x, training=False: call(x),
        nb_classes=classes,
        input_shape=(size_px, size_px, 3),
        loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0, 255),
    )
    pixels = np.full((1, size_px, size_px, 3), 128, np.float32)
    classifier.loss_gradient(pixels, np.eye(classes, dtype=np.float32)[:1])
    return classifier


def art(
    classifier: Any,
    images: np.ndarray,
    norm: float,
    radius: float,
    target: int | None,
    passes: int,
    seed: int,
) -> np.ndarray:
    """The perturbation ART makes with one FGSM step an image, as in the released code of the paper."""
    from art.attacks.evasion import TargetedUniversalPerturbation, UniversalPerturbation

    size = SHARE * (radius if math.isinf(norm) else radius / math.sqrt(images[0].size))
    p = np.inf if math.isinf(norm) else 2
    choices = {"delta": 1e-6, "max_iter": passes, "eps": radius, "norm": p}
    step = {"eps": size, "norm": np.inf, "targeted": target is not None}
    random.seed(seed)
    np.random.seed(seed)
    pixels = images.astype(np.float32)
    if target is None:
        made = UniversalPerturbation(
            classifier, attacker="fgsm", attacker_params=step, verbose=False, **choices
        )
        made.generate(pixels)
    else:
        made = TargetedUniversalPerturbation(classifier, attacker="fgsm", attacker_params=step, **choices)
        made.generate(
            pixels, y=np.tile(np.eye(classifier.nb_classes, dtype=np.float32)[target], (len(pixels), 1))
        )
    return np.asarray(made.noise, np.float32).reshape(images.shape[1:])


def art_version() -> str:
    """Of the toolbox that was measured."""
    import art

    return str(art.__version__)


if __name__ == "__main__":
    main()

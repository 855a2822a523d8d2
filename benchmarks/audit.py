"""How does the deployed model stand under universal perturbations, and do they reach other models?

    python benchmarks/audit.py RUN --data HAM10000 --proxy CALTECH101 [--victims RUN …] [--images N] [--cells DIR] [--out FILE.json]

The whole ``audit`` of RUN (float Keras, float32 and int8 .tflite, both kernel families), non-targeted and towards ``mel`` and
``nv``; then the same perturbations against the float models of other runs, which nothing was crafted on. Pictures are left out
of the record. With ``--cells`` every perturbation is kept as it is made, and a run that was broken off goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_derm import auditing, files
from edge_derm.cli.options import clean
from edge_derm.measure.environment import environment
from edge_derm.trust import attack
from edge_derm.trust.audit import dominant, name_of
from edge_derm.trust.intervals import proportion

TARGETS = ("mel", "nv")
NORMS, ZETA = (2.0, math.inf), 0.04


def main() -> None:
    """Measure, print the record, and write it if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--victims", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--crafting", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--cells", type=Path, help="folder of perturbations made so far")
    parser.add_argument(
        "--around", type=int, default=200, help="images for channels, defences and corruptions"
    )
    parser.add_argument("--rows-only", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    json.dump(clean(measure(asked)), sys.stdout, indent=1)
    print()


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """The whole record; written after each of its three parts."""
    subject = auditing.open_subject(asked.run, None, asked.data, 0)
    judged, sources = auditing.choose(
        subject, asked.data, asked.proxy, "auto", asked.images, asked.crafting, 0
    )
    material = auditing.gather(subject, judged, sources, NORMS, ZETA, asked.draws, 0)
    goals = [None, *(subject.labels.index(name) for name in TARGETS)]
    seconds = {}
    for source in sources:
        for norm in NORMS:
            for goal in goals:
                name = f"{source} L{norm:g} {'any' if goal is None else subject.labels[goal]}"
                r, seconds[name] = cell(asked, subject, material, source, norm, goal, name)
                material.crafted[source].append(r)
                tell(f"{name}: aim {r.aim}, {r.history}")
    rows = auditing.replay(subject, material, ZETA, 0, tell)
    record = {
        "record": "audit_benchmark",
        "images": len(material.images),
        "part": judged.part,
        "settings": {
            "zeta": ZETA,
            "passes": asked.passes,
            "batch": 16,
            "confidence": asked.confidence,
            "draws": asked.draws,
            "seed": 0,
        },
        "sources": {
            name: {"data": chosen.dataset.name, "images": len(chosen.indices)}
            for name, chosen in sources.items()
        },
        "crafting_cpu_seconds": seconds,
        "rows": rows,
        "environment": environment(),
        "command": "python benchmarks/audit.py RUN --data HAM10000 --proxy CALTECH101 --victims … "
        f"--images {asked.images} --crafting {asked.crafting} --passes {asked.passes} --draws {asked.draws} "
        f"--confidence {asked.confidence} --around {asked.around}",
    }
    keep(asked, record)
    record["transfers"] = [row for victim in asked.victims for row in transfer(victim, material, asked)]
    keep(asked, record)
    if not asked.rows_only:
        fewer = replace(
            material, images=material.images[: asked.around], targets=material.targets[: asked.around]
        )
        extras = auditing.surroundings(subject, fewer, 0, tell)
        extras.pop("pictures")
        record["surroundings"] = {"images": len(fewer.images), **extras}
        keep(asked, record)
    return record


def cell(
    asked: argparse.Namespace,
    subject: auditing.Subject,
    material: auditing.Material,
    source: str,
    norm: float,
    goal: int | None,
    name: str,
) -> tuple[attack.Perturbation, float]:
    """One perturbation, from the folder of cells where it is there already, and the processor seconds it took."""
    place = asked.cells and asked.cells / f"{name.replace(' ', '-')}.pickle"
    if place and place.is_file():
        return pickle.loads(place.read_bytes())
    start = time.process_time()
    choices = {"passes": asked.passes, "batch": 16, "confidence": asked.confidence, "seed": 0}
    r = auditing.craft(subject, material, source, norm, goal, **choices)
    made = r, round(time.process_time() - start, 1)
    if place:
        files.write_bytes(place, pickle.dumps(made))
    return made


def keep(asked: argparse.Namespace, record: dict[str, Any]) -> None:
    """Write what there is."""
    if asked.out:
        files.write_json(asked.out, clean(record))


def tell(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def transfer(victim: Path, material: auditing.Material, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of perturbations that were crafted on another model."""
    from edge_derm.modeling import runs
    from edge_derm.modeling.gradients import Differentiable

    model, run = runs.load(victim)
    float_model, labels = Differentiable(model), tuple(run["classes"])
    images = material.images
    clean_answers = float_model.predict(images.astype(np.float32)).argmax(axis=1)
    rows = []
    for source, drawn in {**material.crafted, **{k: v[:1] for k, v in material.controls.items()}}.items():
        for r in drawn:
            answers = float_model.predict(attack.add(images, r.pixels)).argmax(axis=1)
            reached = attack.accept(answers, clean_answers, r.target)
            rows.append(
                {
                    "victim": f"{run['variant']}, seed {run['seed']}",
                    "source": source,
                    "norm": name_of(r.norm),
                    "targeted": None if r.target is None else labels[r.target],
                    "fooling_rate": proportion(int((answers != clean_answers).sum()), len(answers)),
                    "success_rate": (
                        None if r.target is None else proportion(int(reached.sum()), len(answers))
                    ),
                    "dominant": dominant(answers, labels),
                }
            )
    return rows


if __name__ == "__main__":
    main()

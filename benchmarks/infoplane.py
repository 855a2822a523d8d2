"""After an epoch or two, does the information plane find the candidate that will be best? And the best int8 file?

    python benchmarks/infoplane.py --data ham10000 --weights mobilenet_2_5_224_tf_no_top.h5 --work cells \
        [--cells 4] [--json benchmarks/results/infoplane.json]

A training cell trains one candidate (``infoplane_cells.CANDIDATES``: variant × width × learning rate × augmentation × start) with
the default recipe, at 48 px for six epochs on half of the training lesions (one core, half a minute), a fifth of the lesions held
out. It keeps the scores on the validation images after every epoch, and on the held-out ones at the end. A file cell exports its
int8 files, with two ways of rounding, and keeps theirs. Cells that are there are not made again; ``--cells 4`` makes four and ends;
a second process with ``--backwards`` shares the work. ``--json`` judges the cells that are there. What is committed holds figures,
no scores and no weights.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
from infoplane_cells import (
    CANDIDATES,
    EPOCHS,
    HOLD_OUT,
    ROUNDINGS,
    SHARES,
    SIZE_PX,
    Candidate,
    jobs,
    remembered,
)

from edge_derm import choosing, files
from edge_derm.data import Dataset
from edge_derm.measure.environment import environment
from edge_derm.origin import command_line
from edge_derm.records import clean
from edge_derm.trust import infoplane
from edge_derm.trust.intervals import figure


def judge(dataset: Dataset, work: Path) -> dict[str, Any]:
    """The record of the cells that are there."""
    made = [c for c in CANDIDATES if (work / f"{c.name}.npz").is_file()]
    rows = [row(candidate, dataset.labels, work) for candidate in made]
    ranked = ranking(rows) if len(rows) >= 12 else None
    filed = [c for c in made if (work / f"{c.name}.files.npz").is_file()]
    return {
        "record": "infoplane-study",
        "setting": {
            "epochs": EPOCHS,
            "size_px": SIZE_PX,
            "hold_out": HOLD_OUT,
            "train_share": Candidate.share,
            "bins": infoplane.BINS,
        },
        "candidates": rows,
        "ranking": ranked,
        "conclusion": None if ranked is None else conclude(ranked),
        "files": quantised(filed, work) if len(filed) >= 4 else None,
        "survey": survey(dataset.spec, work),
        "environment": environment(command=f"python benchmarks/{command_line(folders=False)}"),
    }


def row(candidate: Candidate, labels: tuple[str, ...], work: Path) -> dict[str, Any]:
    """One candidate: what could be seen of it after each epoch, and what became of it."""
    from edge_derm.modeling import scoring

    with np.load(work / f"{candidate.name}.npz") as kept:
        stored = {name: kept[name] for name in kept.files}
    y, after = stored["targets.validation"], []
    for epoch in range(1, EPOCHS + 1):
        p = stored[f"epoch.{epoch}"]
        seen, figures = infoplane.describe(p, y), scoring.score(p, y, labels)
        after.append(
            {
                "epoch": epoch,
                **{key: seen[key] for key in ("i_xt", "i_ty", "i_ty_corrected", "symbols")},
                **{key: figures[key] for key in ("loss", "accuracy", "balanced_accuracy")},
                "selection": scoring.selection(figures),
            }
        )
    held = scoring.score(stored["test"], stored["targets.test"], labels)
    final = {
        "validation_selection": after[-1]["selection"],
        "validation_balanced": after[-1]["balanced_accuracy"],
        "validation_accuracy": after[-1]["accuracy"],
        "test_selection": scoring.selection(held),
        "test_balanced": held["balanced_accuracy"],
        "test_accuracy": held["accuracy"],
    }
    return {"name": candidate.name, "after": after, "final": final, "cpu_s": float(stored["cpu_s"])}


RANKERS: dict[str, Callable[[dict[str, Any]], float]] = {
    "information": lambda seen: seen["i_ty_corrected"],
    "loss": lambda seen: -seen["loss"],
    "accuracy": lambda seen: seen["accuracy"],
    "balanced_accuracy": lambda seen: seen["balanced_accuracy"],
    "selection": lambda seen: seen["selection"],
}


def ranking(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By epoch and final figure: each ranker's Kendall tau, its distance to the plane's, and the figure of its first choice.

    Intervals: 1000 draws of candidates, the same for every ranker.
    """
    told = []
    for epoch in (1, 2, 3):
        seen = {k: np.array([read(r["after"][epoch - 1]) for r in rows]) for k, read in RANKERS.items()}
        for goal in rows[0]["final"]:
            final = np.array([r["final"][goal] for r in rows])
            drawn = {k: resampled(v, final) for k, v in seen.items()}
            for name, values in seen.items():
                ahead = drawn["information"] - drawn[name]
                told.append(
                    {
                        "epoch": epoch,
                        "final": goal,
                        "ranker": name,
                        "tau": spread(tau(values, final), drawn[name]),
                        "information_ahead": (
                            None
                            if name == "information"
                            else spread(tau(seen["information"], final) - tau(values, final), ahead)
                        ),
                        "lost_by_first_choice": float(final.max() - final[int(values.argmax())]),
                    }
                )
    return told


def conclude(rows: list[dict[str, Any]]) -> list[str]:
    """One sentence an epoch, final figure and baseline: whether the plane orders the candidates better, by its interval alone."""
    told = []
    mine = {(r["epoch"], r["final"]): r["tau"] for r in rows if r["ranker"] == "information"}
    for r in rows:
        ahead = r["information_ahead"]
        if ahead is None or r["final"] not in ("validation_selection", "test_balanced"):
            continue
        verdict = (
            "better"
            if ahead["low"] > 0
            else "worse" if ahead["high"] < 0 else "neither better nor worse, as far as these candidates tell"
        )
        told.append(
            f"After {r['epoch']} of {EPOCHS} epochs, against final {r['final'].replace('_', ' ')}: I(T;Y) tau "
            f"{mine[r['epoch'], r['final']]['value']:.2f}, {r['ranker'].replace('_', ' ')} {r['tau']['value']:.2f}; difference "
            f"{ahead['value']:+.2f} ({ahead['low']:+.2f} to {ahead['high']:+.2f}): {verdict}."
        )
    return told


def tau(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's tau-b: pairs in the same order less pairs in the other, over all that are not tied (NaN: all are)."""
    first, second = (np.sign(values[:, None] - values) for values in (one, other))
    ordered = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / ordered) if ordered else float("nan")


def resampled(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tau of 1000 draws of the candidates, float64 [1000]; not a number where a draw has no order."""
    rng = np.random.default_rng(0)
    return np.array([tau(one[i], other[i]) for i in rng.integers(0, len(one), (1000, len(one)))])


def spread(value: float, drawn: np.ndarray) -> dict[str, Any]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return figure(value, low, high, len(drawn))


def quantised(candidates: list[Candidate], work: Path) -> dict[str, Any]:
    """The int8 files: does what they say of the class tell how often they decide like their float model?"""
    rows = []
    for candidate in candidates:
        with np.load(work / f"{candidate.name}.files.npz") as kept, np.load(
            work / f"{candidate.name}.npz"
        ) as trained:
            y, p = trained["targets.test"], kept["float"]
            whole = infoplane.describe(p, y)["i_ty_corrected"]
            for rounding in ROUNDINGS:
                q = kept[rounding]
                said = infoplane.describe(q, y)["i_ty_corrected"]
                rows.append(
                    {
                        "name": candidate.name,
                        "rounding": rounding,
                        "agreement": float((q.argmax(axis=1) == p.argmax(axis=1)).mean()),
                        "i_ty_corrected": said,
                        "i_ty_lost": whole - said,
                        "accuracy": float((q.argmax(axis=1) == y).mean()),
                        "accuracy_lost": float(
                            (p.argmax(axis=1) == y).mean() - (q.argmax(axis=1) == y).mean()
                        ),
                        "confidence": float(q.max(axis=1).mean()),
                    }
                )
    agreement = np.array([r["agreement"] for r in rows])
    rankers = {
        "information": [r["i_ty_corrected"] for r in rows],
        "information_kept": [-r["i_ty_lost"] for r in rows],
        "accuracy": [r["accuracy"] for r in rows],
        "accuracy_kept": [-r["accuracy_lost"] for r in rows],
        "confidence": [r["confidence"] for r in rows],
    }
    told = {
        name: spread(tau(np.array(values), agreement), resampled(np.array(values), agreement))
        for name, values in rankers.items()
    }
    return {"rows": rows, "tau_with_agreement": told}


def survey(data: str, work: Path) -> dict[str, Any] | None:
    """What ``edge-derm infoplane`` says of the shares of the data, and of pretrained against random starts."""
    wanted = [c.name for c in (CANDIDATES[0], *SHARES) if (work / f"{c.name}.npz").is_file()]
    pairs = [c.name for c in CANDIDATES[:9] if c.rate is None and not c.augmentation]
    names = list(dict.fromkeys([*wanted, *(n for n in pairs if (work / f"{n}.npz").is_file())]))
    if len(names) < 2:
        return None
    found = choosing.survey([work / name for name in names], data=data, part="test", samples=1000)
    for point in found["points"]:
        point["model"] = Path(point["model"]).name
        point["recording_s"] = sum(at["seconds"] for at in point.pop("path") or [])
    return {key: found[key] for key in ("part", "images", "h_y", "points", "classes", "starts")}


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether no other process works on this cell; its claim ends with it, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def ready(work: Path, name: str) -> bool:
    """Whether a cell's candidate is trained; if not, another process is at it, and a later call makes its files."""
    candidate = name.removesuffix(".files.npz")
    return candidate == name or (work / candidate / "run.json").is_file()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument(
        "--backwards", action="store_true", help="last cell first: for a second process beside the first"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    dataset = remembered(given.data, given.work)
    missing = jobs(dataset, given.weights, given.work)
    order = missing[::-1] if given.backwards else missing
    for name, job in order[: given.cells]:
        with claimed(given.work / f"{name}.lock") as mine:
            if mine and not (given.work / name).is_file() and ready(given.work, name):
                job()
                print(name, flush=True)
    if given.json:
        record = judge(dataset, given.work)
        files.write_json(given.json, clean(record))
        print(
            "\n".join(
                record["conclusion"] or [f"{len(record['candidates'])} of at least 12 candidates are there"]
            )
        )


if __name__ == "__main__":
    main()

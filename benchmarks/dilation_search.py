"""Which dilation map is worth a judgement: trained cells of ``dilated_mobilenet.py``, compared on the validation part.

The best of many is best by chance as well: what stands on the validation part for the winner is too good, and only images that
chose no map say what it is worth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, Sequence

import click
import numpy as np
from scipy import stats
from students import mean

WORTHS = ("worth", "balanced_accuracy", "accuracy")
CHOICES = ("size_px", "alpha", "epochs")
RUN = "run/run.json"


def trained(work: Path, name: str, choices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trained cells of a data set, with their figures on the validation part."""
    from edge_derm.modeling import scoring

    cells = []
    for path in sorted((work / name).glob(f"*/{RUN}")):
        arm, _, seed = path.parent.parent.name.rpartition("-")
        run = json.loads(path.read_text(encoding="utf-8"))
        config, split = run["identity"]["config"], choices["split_seed"]
        wanted = {**{key: choices[key] for key in CHOICES}, "split": int(seed) if split is None else split}
        got = {**{key: config[key] for key in CHOICES}, "split": run["data"]["split"]["seed"]}
        if got != wanted:
            raise click.UsageError(
                f"--work: {path.parent}: expected a run of {wanted}, got one of {got}: choose another folder"
            )
        found = run["validation"]
        cells.append(
            {
                "arm": arm,
                "seed": int(seed),
                **{key: run[key] for key in ("parameters", "macs", "dilation", "best_epoch", "seconds")},
                "images": run["data"]["parts"]["validation"],
                "split": run["data"]["split"],
                **{key: found[key] for key in ("accuracy", "balanced_accuracy")},
                "worth": scoring.selection(found),
            }
        )
    return cells


def screen(cells: Sequence[dict[str, Any]], arms: Sequence[str]) -> dict[str, Any]:
    """Arms by worth (what an epoch is chosen by), best first, each paired by seed with the first; and what chance does."""
    found = {(cell["arm"], cell["seed"]): cell for cell in cells}
    rows = []
    for arm in arms:
        seeds = [seed for name, seed in sorted(found) if name == arm and (arms[0], seed) in found]
        if not seeds:
            continue
        figures = {}
        for name in WORTHS:
            values = [found[arm, seed][name] for seed in seeds]
            each = [value - found[arms[0], seed][name] for value, seed in zip(values, seeds)]
            figures[name] = {
                "mean": float(np.mean(values)),
                "difference": mean(each),
                "difference_by_seed": each,
            }
        rows.append({"arm": arm, "against": arms[0], "seeds": seeds, **figures})
    common = sorted(set.intersection(*(set(line["seeds"]) for line in rows))) if rows else []
    tables = {name: [[found[line["arm"], seed][name] for seed in common] for line in rows] for name in WORTHS}
    rows.sort(key=lambda line: -line["worth"]["difference"]["value"])
    return {"arms": rows, "chance": {name: chance(table) for name, table in tables.items()}}


def chance(table: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """How far a mean difference to the first arm goes by chance, from the scatter of all arms (rows) over seeds (columns).

    ``one``: 95 % half width for an arm named beforehand; ``best``: for the best of all of them (Bonferroni).
    """
    if len(table) < 2 or len(table[0]) < 2:
        return None
    x = np.asarray(table)
    arms, seeds = x.shape
    degrees = (arms - 1) * (seeds - 1)
    left = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
    scatter = float(np.sqrt((left**2).sum() / degrees))
    error = scatter * np.sqrt(2 / seeds)
    one, best = (float(stats.t.ppf(1 - 0.025 / n, degrees) * error) for n in (1, arms - 1))
    return {"scatter": scatter, "degrees": degrees, "seeds": seeds, "one": one, "best": best}


def tell_search(result: dict[str, Any]) -> None:
    """The table for a terminal, best arm first."""
    for one in result["sets"]:
        for arm in one["arms"]:
            shown = [f"{one['data']:11} {arm['arm']:22} {len(arm['seeds'])} seeds"]
            for name in WORTHS:
                found, by_seed = arm[name], arm[name]["difference_by_seed"]
                each = " ".join(f"{100 * value:+.1f}" for value in by_seed)
                shown.append(
                    f"{name} {found['mean']:.3f} ({100 * found['difference']['value']:+.1f} points: {each})"
                )
            click.echo("  ".join(shown))
        for name, by_chance in one["chance"].items():
            if by_chance:
                click.echo(
                    f"{name}: by chance ± {100 * by_chance['one']:.1f} points for one arm, "
                    f"± {100 * by_chance['best']:.1f} for the best of {len(one['arms']) - 1}"
                )

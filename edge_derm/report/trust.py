"""Sections on trust: calibration and abstaining, uncertainty."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping

from edge_derm.report import charts
from edge_derm.report.markup import facts, interval, pair, section, table, text, tiles

Record = Mapping[str, Any]

ABSTAINED = (
    "<p><b>“Abstained”</b> means that the model looked at the picture and gave no answer, because its confidence was below the "
    "threshold it was set. It is neither “benign” nor “malignant”: a person has to look. <b>“Plausible”</b> lists every diagnosis "
    "that cannot be ruled out at the promised rate; several of them are an open question.</p>"
)
SAMPLINGS = {
    "plain": "one pass",
    "mc": "Monte-Carlo dropout",
    "tta": "views (test-time augmentation)",
    "mc_tta": "dropout and views",
    "ensemble": "an ensemble of bundles",
    "features": "feature distance",
}


def calibration(record: Record) -> str:
    """What was fitted and what it is worth."""
    selective, found = record.get("selective") or {}, record["sensitivity"]
    top = tiles(
        {
            "calibration error before": f"{record['ece_before']:.3f}",
            "after": f"{record['ece_after']:.3f}",
            "after, less what chance adds": f"{record['ece_debiased']:.3f}",
            "of a perfect model, as counted": f"{record['ece_noise']:.3f}",
            "sets hold the truth": interval(record["coverage"]),
            "images answered": interval(selective.get("answered")) if selective else "all",
            "of these wrong": interval(selective.get("risk")) if selective else "–",
        }
    )
    promised = facts(
        "Fitted",
        {
            "scaling": record["scaling"],
            "temperature": record["temperature"],
            "prediction sets": f"{record['score']}, to miss the truth in {record['miscoverage']:.0%}",
            "classes in a set, on average": record["mean_set_size"],
            "sets hold the truth, mean over random splits": "{mean:.3f} ({low:.3f}–{high:.3f})".format(
                **record["coverage_splits"]
            ),
            "abstains below": record["abstain_threshold"],
            "wrong answers allowed": f"{record['risk']:.0%}, with a doubt of {record['doubt']:.0%}",
            "label named": record["named"],
            "decisions changed": f"{record['decisions_changed']:.1%}",
            "accuracy, before and after": f"{record['accuracy_before']:.3f}, {record['accuracy_after']:.3f}",
            "balanced accuracy, before and after": f"{record['balanced_accuracy_before']:.3f}, "
            f"{record['balanced_accuracy_after']:.3f}",
        },
    )
    classes = table(
        "By class",
        ["class", "n", "sets hold it", "named before", "named after"],
        [
            (
                text(k),
                text(v["n"]),
                interval(v, 2),
                *(interval(found[k][when], 2) for when in ("before", "after")),
            )
            for k, v in record["class_coverage"].items()
        ],
    )
    rare = short_of(record)
    warned = (
        f'<p class="notice">The promise is for all images together, and {escape(", ".join(rare))} fall short of it: '
        "--by-class promises it for every class.</p>"
        if rare
        else ""
    )
    note = (
        f'<p class="soft">{text(record["images"]["check"])} images ({escape(str(record["part"]))}), each judged by what was fitted '
        "on the folds of lesions it is not in. A calibration error near that of a perfect model is no evidence of any.</p>"
    )
    return section(
        "Are its probabilities honest, and when does it not answer?",
        top,
        ABSTAINED,
        note,
        warned,
        pair(promised, classes),
    )


def short_of(record: Record) -> list[str]:
    """Classes whose sets hold the truth clearly less often than promised (upper end of the interval below it)."""
    promise = 1 - record["miscoverage"]
    return [k for k, v in record["class_coverage"].items() if v["high"] is not None and v["high"] < promise]


def uncertainty(record: Record) -> str:
    """Which measure finds wrong answers and foreign images."""
    best, foreign = record["best"], (record.get("ood") or {}).get("auroc") or {}
    found, gone = best["errors"], best["reduction_at_80"]
    top = {
        "finding wrong answers (AUROC)": interval(found["figure"]) if found else "–",
        "of the risk gone at 80 % answered": interval(gone["figure"], 2) if gone else "–",
    }
    if best.get("ood"):
        top["finding foreign images (AUROC)"] = interval(best["ood"]["figure"])
    rows = []
    for sampling, measures in record["metrics"].items():
        for name, row in measures.items():
            cells = [
                f"{escape(SAMPLINGS.get(sampling, sampling))}: {escape(name.replace('_', ' '))}",
                interval(row["errors"]),
                text(row["aurc"]),
                interval(row["reduction_at_80"], 2),
            ]
            rows.append((*cells, interval(foreign.get(sampling, {}).get(name)) if foreign else "–"))
    head = [
        "measure",
        "wrong answers, AUROC",
        "area under risk–coverage",
        "risk gone at 80 %",
        "foreign images, AUROC",
    ]
    chosen = {"best possible": record["risk_coverage"]["best"]["possible"]}
    for key in ("errors", "reduction_at_80"):
        if best[key]:
            where = record["risk_coverage"][best[key]["sampling"]][best[key]["measure"]]
            chosen[f"{SAMPLINGS[best[key]['sampling']]}: {best[key]['measure'].replace('_', ' ')}"] = where
    chosen["one pass: entropy"] = record["risk_coverage"]["plain"]["entropy"]
    curve = charts.lines(
        {name: (c["coverage"], c["risk"]) for name, c in chosen.items()},
        title="Risk and coverage: share of wrong answers when only the surest are answered",
        x_label="share of images answered",
        y_label="share of these wrong",
        x_range=(0, 1),
    )
    return section(
        "Does it know when it does not know?",
        tiles(top),
        f'<p class="soft">{text(record["images"])} images ({escape(str(record["part"]))}). 0.5 is a coin, 1 finds every one. The '
        "best of many is chosen on these images and flatters a little.</p>",
        table("Every measure, higher is better but for the area", head, rows),
        pair(curve, settling(record)),
    )


def settling(record: Record) -> str:
    """How the measures settle with the number of passes."""
    rows = record.get("stability") or []
    if len(rows) < 2:
        return ""
    passes = [row["passes"] for row in rows]
    series = {
        name.replace("_", " "): (passes, [row["errors"][name] for row in rows])
        for name in ("entropy", "variance", "bhattacharyya", "mutual_information")
        if all(row["errors"].get(name) is not None for row in rows)
    }
    return charts.lines(
        series,
        title="Finding wrong answers by the number of passes",
        x_label="passes",
        y_label="AUROC",
        points=True,
    )

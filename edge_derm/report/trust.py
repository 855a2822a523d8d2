"""Sections on trust: calibration and abstaining, uncertainty, the two-class task with readers, subgroups, the model card."""

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
            "of a perfect model": f"{record['ece_noise']:.3f}",
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


def task(record: Record) -> str:
    """Operating points, the ROC curve with readers and published points, the readers' table."""
    told = record.get("task")
    if not told:
        return ""
    against = f"{told['positive']} against {told['negative'] or 'all others'}"
    spots = {
        f"{name} (these images)": (1 - row["specificity"]["value"], row["sensitivity"]["value"])
        for name, row in (record.get("readers") or {}).items()
        if row["specificity"]["value"] is not None and row["sensitivity"]["value"] is not None
    }
    reference = told.get("reference")
    for name, point in (reference or {}).get("points", {}).items():
        spots[f"published: {name}"] = (1 - point["specificity"]["value"], point["sensitivity"]["value"])
    roc = told["roc"]
    curve = (
        charts.lines(
            {"model": (roc["false_positive_rate"], roc["sensitivity"])},
            title=f"ROC: {against}",
            x_label="1 − specificity",
            y_label="sensitivity",
            x_range=(0, 1),
            y_range=(0, 1),
            diagonal=True,
            spots=spots,
        )
        if roc["sensitivity"]
        else ""
    )
    points = table(
        f"{against}: operating points, thresholds chosen on {told['chosen_on']}",
        ["rule", "sensitivity", "specificity", "PPV"],
        [
            (
                text(name.replace("_", " ")),
                interval(p["sensitivity"], 2),
                interval(p["specificity"], 2),
                interval(p["ppv"], 2),
            )
            for name, p in (record.get("operating_points") or {}).items()
        ],
    )
    caveat = (
        f'<p class="soft">Published points: {escape(reference["source"])}; {escape(reference["caveat"])}.</p>'
        if reference
        else ""
    )
    area = f"<p>Area under the curve {interval(told['auroc'])}, {text(told['n'])} images.</p>"
    return "<h3>Two classes</h3>" + pair(curve + caveat, area + points) + readers(record)


def readers(record: Record) -> str:
    """Every reader and all pooled against the model."""
    rows, study = record.get("readers"), record.get("reader_study")
    if not rows or not study:
        return ""
    body = [
        (
            text(name),
            text(row["n"]),
            interval(row["sensitivity"], 2),
            interval(row["specificity"], 2),
            interval(row["model_sensitivity"], 2),
            interval(row["model_specificity"], 2),
            *(
                f"{row['mcnemar'][part]['p']:.3g} <span class='soft'>({row['mcnemar'][part]['p_holm_study']:.3g})</span>"
                for part in ("positives", "negatives", "all")
            ),
        )
        for name, row in rows.items()
    ]
    head = ["reader", "decisions", "sensitivity", "specificity", "model: sensitivity", "specificity"]
    return (
        table("Readers against the model", [*head, "p positives", "p negatives", "p all"], body)
        + f'<p class="soft">p: exact McNemar on paired correctness, in brackets adjusted over all {text(study["tests"])} tests '
        f"({escape(study['multiplicity'])}). Pooled: {escape(study['pooled'])}. Model: {escape(study['model'])}.</p>"
    )


def shift(record: Record) -> str:
    """Where accuracy differs by more than chance."""
    rows = record.get("shift") or {}
    if not rows:
        return ""
    body = [
        (
            text(key.replace("_", " ")),
            text(r["lowest"]),
            text(r["highest"]),
            f"{r['difference']:.3f}",
            f"{r['p_holm']:.3g}",
        )
        for key, r in rows.items()
    ]
    caveat = record.get("skin_tone_caveat")
    return table(
        "Differences between subgroups",
        ["by", "lowest", "highest", "difference in accuracy", "p, adjusted"],
        body,
    ) + (
        '<p class="soft">Permutation test, Holm-adjusted. Groups also differ in their diagnoses: a difference says where to look, '
        f"not why it is there.{' Skin: ' + escape(caveat) + '.' if caveat else ''}</p>"
    )


def twice(record: Record) -> str:
    """Every metric of the float parent and of the deployed file."""
    rows = record.get("metrics")
    if not rows:
        return ""
    body = [
        (
            text(name.replace("_", " ")),
            interval(r["float"]),
            interval(r["deployed"]),
            interval(r["difference"], 4),
        )
        for name, r in rows.items()
    ]
    return (
        "<details><summary>Every metric, float and deployed, with the paired interval of the difference</summary>"
        + table("Deployed − float, XNNPACK kernels", ["metric", "float", "deployed", "difference"], body)
        + "</details>"
    )


def tells_foreign(manifest: Record) -> bool:
    """Whether the bundle holds what it knows, so that ``predict`` can tell what it does not."""
    return any(entry["role"] == "known" for entry in manifest["files"].values())


def card(record: Record) -> str:
    """The model card of a bundle, from its manifest."""
    manifest = record.get("manifest")
    if not manifest:
        return ""
    source, judged = manifest["provenance"], manifest["metrics"].get("evaluation")
    use = (
        "<p><b>Intended use.</b> Research and engineering on pictures of the kind it was trained on: "
        f"{text(manifest['input']['size_px'])} px square pictures, to be told apart into {escape(', '.join(manifest['labels']))}. "
        "<b>Not a medical device</b>: not for diagnosis, triage or reassurance of any person.</p>"
    )
    data = facts(
        "Model and data",
        {
            "variant": manifest["variant"],
            "recipe": manifest["recipe"],
            "made by": source["command"],
            "data digest": (source["data_digest"] or "unknown")[:16],
            "split": source["split"] and source["split"].get("fractions"),
            "seed": source["seed"],
            "versions": source["versions"],
        },
    )
    limits = [
        "Pictures from another camera, clinic or population are another matter: evaluate on your own before any use.",
        "It knows its classes only: every picture gets one of them, a foreign one too, unless it abstains"
        + (
            " or predict calls it foreign; the camera and microcontrollers do not."
            if tells_foreign(manifest)
            else "."
        ),
    ]
    if manifest["temperature"] is None:
        limits.append("Not calibrated: its probabilities are not frequencies (edge-derm calibrate).")
    if manifest["abstain_threshold"] is None:
        limits.append("It never abstains: no threshold is set.")
    if (manifest.get("calibration") or {}).get("weights"):
        limits.append(
            "The label named is the network's own answer, for which every class counts alike; its probability is how often "
            "that answer is right among pictures like those it was calibrated on. A rare class may be named though another is more "
            "probable."
        )
    elif manifest.get("calibration"):
        limits.append(
            "The most probable class follows how frequent the classes are, so rare ones are called less often: to find one of them "
            "use its operating point or the plausible diagnoses, not the first name."
        )
    if judged is None:
        limits.append("Its figures are not in the bundle (edge-derm evaluate --keep).")
    listed = "<h3>Limits</h3><ul>" + "".join(f"<li>{escape(line)}</li>" for line in limits) + "</ul>"
    decided = facts(
        "How it decides",
        {
            "temperature": manifest["temperature"],
            "abstains below": manifest["abstain_threshold"],
            "conformal quantile": manifest["conformal_quantile"],
            "dropout in training": manifest.get("dropout"),
        },
    )
    return section("Model card", use, pair(data, decided + listed), _judged(judged))


def _judged(judged: Record | None) -> str:
    if not judged:
        return ""
    figures = [
        ("accuracy", interval(judged["accuracy"])),
        ("balanced accuracy", interval(judged["balanced_accuracy"])),
        ("calibration error", interval(judged["ece"])),
        *((f"AUROC {escape(label)}", interval(value)) for label, value in judged["auroc"].items()),
    ]
    told = judged.get("task") or {"operating_points": {}}
    for name, point in told["operating_points"].items():
        both = f"{interval(point['sensitivity'], 2)} / {interval(point['specificity'], 2)}"
        figures.append(
            (f"{escape(told['positive'])}, {escape(name.replace('_', ' '))}: sensitivity / specificity", both)
        )
    title = f"Judged on {text(judged['images'])} images of {judged['data']} ({judged['part']})"
    groups = [
        (f"{escape(key.replace('_', ' '))}: {escape(value)}", text(row["n"]), interval(row))
        for key, rows in judged["subgroups"].items()
        for value, row in rows.items()
    ]
    return pair(
        table(title, ["figure", "value"], figures),
        table("Accuracy by subgroup", ["group", "n", "accuracy"], groups) if groups else "",
    )

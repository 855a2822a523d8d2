"""The model card of a bundle: what it is for, what it was made of, where it ends."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping

from edge_derm.report.markup import facts, interval, pair, section, table, text

Record = Mapping[str, Any]


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


def tells_foreign(manifest: Record) -> bool:
    """Whether the bundle holds what it knows, so that ``predict`` can tell what it does not."""
    return any(entry["role"] == "known" for entry in manifest["files"].values())


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

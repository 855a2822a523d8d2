"""Commands that judge a bundle on labelled images: ``verify`` (against its float parent) and ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import judging
from . import options as shared


@click.command()
@shared.bundle_argument
@shared.data_option
@shared.path_option("--against", "RUN|BUNDLE", "The float parent.")
@shared.gate_option
@shared.part_option
@shared.threads_option
@shared.json_option
def verify(bundle: Path, json_file: str | None, **choices: Any) -> None:
    """Parity and accuracy of the deployed file against its float parent, on both kernel families.

    \b
    Example:  edge-derm verify d1.bundle --data images/ --against runs/d1
    """
    record, failures = judging.verify(bundle, **choices)
    shared.emit(record, json_file, parity(record))
    if failures:
        raise failures


def parity(record: dict[str, Any]) -> str:
    """The verdict in a few lines."""
    text = (
        f"{record['images']} images ({record['part']}): deployed accuracy {record['accuracy_deployed']:.4f}"
    )
    if record["accuracy_float"] is None:
        return text + "; no float parent given (--against RUN)"
    agreement = record["agreement"]
    return text + (
        f", float {record['accuracy_float']:.4f}\n  agreement with the float parent: XNNPACK {agreement['xnnpack']:.4f}, "
        f"reference kernels {agreement['reference']:.4f}; largest probability error {record['max_abs_probability_error']:.4f}"
    )


@click.command()
@shared.bundle_argument
@shared.data_option
@click.option("--positive", metavar="LABEL", help="Two-class task: the class to find (e.g. mel).")
@click.option("--negative", metavar="LABEL", help="Two-class task: the class to tell it from (e.g. nv).")
@shared.path_option("--readers", "FILE.csv", "Reader decisions: reader,image_id,decision.")
@click.option(
    "--reference",
    is_flag=True,
    help="Put the published points of a reader study (melanoma against naevi) beside the curve, with their caveat.",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Write the main figures into the bundle, for its model card (removes a signature).",
)
@shared.part_option
@shared.backend_option
@shared.threads_option
@shared.seed_option
@shared.json_option
def evaluate(bundle: Path, json_file: str | None, **choices: Any) -> None:
    """Metrics with 95 % intervals.

    \b
    Example:  edge-derm evaluate d1.bundle --data images/ --positive mel --negative nv
    """
    record = judging.evaluate(bundle, **choices)
    shared.emit(record, json_file, figures(record))


def figures(record: dict[str, Any]) -> str:
    """The main figures, each with its interval."""
    lines = [f"{record['images']} images ({record['part']})"]
    lines += [
        f"  {name.replace('_', ' ')}: {figure(record[name])}"
        for name in ("accuracy", "balanced_accuracy", "ece", "brier")
    ]
    lines.append(
        f"  ece less what chance adds: {record['ece_debiased']:.3f}; a perfect model shows an ece of "
        f"{record['ece_noise']:.3f} on as many images"
    )
    lines += [f"  AUROC {label}: {figure(value)}" for label, value in record["auroc"].items()]
    if record["coverage"]:
        lines.append(
            f"  prediction sets hold the truth: {figure(record['coverage'])}, {record['mean_set_size']:.2f} classes each"
        )
    if record["answered"]:
        lines.append(f"  answered: {figure(record['answered'])}; of these wrong: {figure(record['risk'])}")
    for name, point in (record["operating_points"] or {}).items():
        lines.append(
            f"  {name.replace('_', ' ')}: sensitivity {figure(point['sensitivity'])}, specificity {figure(point['specificity'])}"
        )
    for name, row in (record["readers"] or {}).items():
        tests = row["mcnemar"]["all"]
        lines.append(
            f"  {name}: sensitivity {figure(row['sensitivity'])}, specificity {figure(row['specificity'])}; "
            f"McNemar against the model p {tests['p']:.3g} ({tests['p_holm_study']:.3g} adjusted)"
        )
    return "\n".join(lines)


def figure(value: dict[str, Any]) -> str:
    """``0.812 (0.790 to 0.834)``, or why there is none."""
    if value["value"] is None:
        return f"none ({value.get('reason', 'not defined here')})"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

"""Commands that look: ``inspect`` (into a file) and ``predict`` (at images)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import inspecting, using
from . import options as shared


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="BUNDLE|FILE.tflite")
@shared.json_option
def inspect(model: Path, json_file: str | None) -> None:
    """What is inside: operators, tensors, MACs, parameters, quantisation, warnings.

    \b
    Example:  edge-derm inspect d1.bundle
    """
    record = inspecting.inspect(model)
    lines = [
        f"{model}: {record['size_bytes']:,} bytes, {record['parameters']:,} parameters, {record['macs'] / 1e6:.2f} M MACs"
    ]
    lines += [f"  {kind} {describe(tensor)}" for kind in ("input", "output") for tensor in record[kind + "s"]]
    lines += [f"  {count:4d} {name}" for name, count in record["operators"].items()]
    lines += [f"  warning: {warning['message']}" for warning in record["warnings"]]
    lines += roundings(record)
    shared.emit(record, json_file, "\n".join(lines))


def roundings(record: dict[str, Any]) -> list[str]:
    """The five roundings that cost most, where ``export --sensitivity`` measured them."""
    metrics = (record["manifest"] or {}).get("metrics", {})
    worst = sorted(metrics.get("sensitivity", ()), key=lambda row: -row["margin_change"])[:5]
    return [
        f"  rounding {row['what']} of {row['layer']} alone: {row['agreement']:.1%} decided as in float, "
        f"margins change by {row['margin_change']:.4f}"
        for row in worst
    ]


def describe(tensor: dict[str, Any]) -> str:
    """One tensor in one line."""
    shape = "×".join(map(str, tensor["shape"]))
    scale = (
        ""
        if tensor.get("scale") is None
        else f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}"
    )
    return f"{tensor['name']}: {tensor['dtype']} {shape}{scale}"


@click.command()
@shared.bundle_argument
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE...")
@shared.passes_option(0, "Monte-Carlo dropout: N passes, the first layers once.")
@shared.views_option(0, "Test-time augmentation: N views (8 turns and mirrors, then mild colour).")
@shared.dropout_rate_option
@shared.path_option("--ensemble", "BUNDLE", "Ask this bundle too (may be given again).", multiple=True)
@shared.path_option(
    "--mask", "DIR", "Write where a bundle trained with --attention looked: DIR/NAME-mask.png."
)
@shared.backend_option
@shared.threads_option
@shared.seed_option
@shared.json_option
def predict(
    bundle: Path, images: tuple[Path, ...], json_file: str | None, mask: Path | None, **choices: Any
) -> None:
    """Label, probabilities and uncertainty of images.

    \b
    Example:  edge-derm predict d1.bundle lesion.jpg --json -
              edge-derm predict d1.bundle lesion.jpg --mc 32
    """
    records = using.predict(bundle, images, **choices)
    masks = [None] * len(images) if mask is None else using.draw_masks(bundle, images, mask)
    records = [{**record, "mask": drawn} for record, drawn in zip(records, masks, strict=True)]
    shared.emit(records, json_file, "\n".join(line(record) for record in records))


def line(record: dict[str, Any]) -> str:
    """One prediction in one line: the label named, then the two most probable others."""
    named = record["label"]
    ranked = sorted(record["probabilities"].items(), key=lambda item: (item[0] != named, -item[1]))[:3]
    state = " (abstained: not sure enough to answer)" if record["abstained"] else ""
    text = f"{record['image']}: {record['label']}{state}  " + "  ".join(
        f"{name} {value:.3f}" for name, value in ranked
    )
    if record["prediction_set"] is not None:
        text += f"  plausible: {', '.join(record['prediction_set']) or 'none of them'}"
    if record["foreign"]:
        text += f"  FOREIGN: unlike the images it knows (distance {record['distance']:.3f}); no label here means anything"
    if record["variance"] is not None:
        text += (
            f"  [{record['passes']} passes: entropy {record['entropy']:.3f}, variance {record['variance']:.5f}, "
            f"Bhattacharyya {record['bhattacharyya']:.3f}]"
        )
    return text

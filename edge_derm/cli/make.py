"""Commands that make things: ``train``, ``export``, ``adopt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import making
from . import options as shared


@click.command()
@shared.data_option
@click.option(
    "--variant", type=click.Choice(["mobilenet", "d1", "d2", "d3"]), default="mobilenet", show_default=True
)
@click.option(
    "--dilation", metavar="MAP", help="Free map of dilation rates, e.g. 'dw1=2,dw3=2' (instead of --variant)."
)
@shared.setting("--alpha", float, 0.25, "Width multiplier, 0.25 to 1.0.")
@click.option(
    "--size", "size_px", type=int, default=128, show_default=True, help="Side of the square input in pixels."
)
@click.option("--epochs", type=click.IntRange(1), default=None, help="Epochs (default: the recipe's).")
@shared.path_option(
    "--weights", "FILE.h5|RUN", "ImageNet weights (Keras, no top) or a finished run to start from."
)
@click.option(
    "--attention", is_flag=True, help="Weigh the places of the last feature map; the mask can be looked at."
)
@click.option("--dropout", type=click.FloatRange(0, 0.9), default=None, help="Dropout before the classifier.")
@click.option(
    "--dropout-depth",
    callback=shared.blocks,
    default="head",
    show_default=True,
    metavar="head|last-K",
    help="Blocks that dropout reaches back over; more of them give Monte-Carlo passes more to disagree about.",
)
@click.option(
    "--budget",
    "budget_min",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MIN",
    help="Stop in time with a usable model.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.9, min_open=True),
    metavar="SHARE",
    help="Keep this share of the lesions out of everything, to judge the model on (--part test).",
)
@shared.setting(
    "--share",
    click.FloatRange(0, 1, min_open=True),
    1.0,
    "Train on this share of the training lesions only (infoplane: how many images a class still needs).",
)
@click.option(
    "--plane",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Record the path over the information plane every so many steps (plane.json; see infoplane).",
)
@click.option("--harden", is_flag=True, help="Train against universal perturbations (see docs/audit.md).")
@shared.seed_option
@shared.out_option("The run folder; an interrupted one is resumed.")
@shared.json_option
def train(data: str, out: Path, seed: int, json_file: str | None, **choices: Any) -> None:
    """Train a (Dilated-)MobileNet on labelled images.

    \b
    Example:  edge-derm train --data images/ --variant d1 --size 128 --out runs/d1
    """
    record = making.train(data, out, seed=seed, **choices)
    best = record["validation"]
    shared.emit(
        record,
        json_file,
        (
            f"{out}: {record['variant']} α={record['alpha']} {record['size_px']} px, {record['parameters']:,} parameters, "
            f"{record['macs'] / 1e6:.1f} M MACs; after {record['best_epoch']} epochs: "
            f"validation accuracy {best['accuracy']:.3f}, balanced {best['balanced_accuracy']:.3f}"
        ),
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN|MODEL.keras")
@click.option(
    "--recipe",
    type=click.Choice(["float32", "float16", "dynamic", "int8", "int16x8", "onnx"]),
    default="int8",
    show_default=True,
)
@click.option(
    "--io",
    type=click.Choice(["int8", "uint8", "float32"]),
    default=None,
    help="Tensors at the edge (default: int8 for int8, float32 otherwise).",
)
@click.option(
    "--rounding",
    type=click.Choice(["reconstruct", "nearest"]),
    default=None,
    help="Of int8 weights: keeping each layer's output on the images, or each weight (default: the first the model allows).",
)
@click.option(
    "--sensitivity",
    is_flag=True,
    help="int8: also measure what the rounding of each layer costs alone; inspect and report show it.",
)
@click.option("--data", metavar="DIR", help="Calibration images (default: those the run was trained on).")
@shared.path_option("--labels", "FILE", "One label a line (needed for a MODEL.keras).")
@shared.seed_option
@shared.out_option("The bundle folder.")
@shared.json_option
def export(model: Path, out: Path, json_file: str | None, **choices: Any) -> None:
    """Turn a trained model into a verified bundle.

    \b
    Example:  edge-derm export runs/d1 --recipe int8 --out d1.bundle
    """
    record = making.export(model, out, **choices)
    shared.emit(
        record,
        json_file,
        (
            f"{out}: {record['recipe']}, {record['size_bytes']:,} bytes, {sum(record['operators'].values())} operators, "
            f"{record['dilated_depthwise']} dilated depthwise, fused: {'yes' if record['fused'] else 'no'}"
        ),
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="FILE.tflite")
@shared.path_option("--labels", "FILE", "One label a line, in the order of the outputs.", required=True)
@click.option(
    "--mean",
    type=float,
    default=None,
    help="The model computes on (pixel - mean) / std; default: from the file.",
)
@click.option("--std", type=float, default=None)
@click.option("--logits", is_flag=True, help="The outputs are logits, not probabilities.")
@shared.out_option("The bundle folder.")
@shared.json_option
def adopt(model: Path, out: Path, json_file: str | None, **choices: Any) -> None:
    """Make a bundle of anyone's .tflite image classifier, so that every other command works on it.

    \b
    Example:  edge-derm adopt mobilenet.tflite --labels labels.txt --out mobilenet.bundle
    """
    record = making.adopt(model, out, **choices)
    shared.emit(
        record,
        json_file,
        f"{out}: {record['size_bytes']:,} bytes, {sum(record['operators'].values())} operators",
    )

"""Stock against fused export of one dilated model: operators, bytes, latency, arm64 instructions and int8 accuracy, in one run.

    python benchmarks/dilated_export.py --run RUN --data DIR --json benchmarks/results/dilated_export.json

Without ``--run`` a d1 is trained on the built-in pictures first. "Stock" is Keras' model through
``TFLiteConverter.from_keras_model`` with the same calibration images; its dilated layers become SPACE_TO_BATCH_ND →
DEPTHWISE_CONV_2D → BATCH_TO_SPACE_ND with an unfolded batch norm behind. The arm64 instructions are counted on emulated cores
(``edge-derm targets --prepare qemu:cortex-a72``) and are no time: the A76 differs from the A72 by having an int8 dot product.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from edge_derm import files, making
from edge_derm.bundle import Provenance, check_model
from edge_derm.measure import benchmark, targets
from edge_derm.measure.environment import environment
from edge_derm.measure.targets import find_target
from edge_derm.runtime import Classifier
from edge_derm.selection import Selection, select
from firmware_bridge.summary import count_operators

CORES = ("qemu:cortex-a72", "qemu:cortex-a76")


def stock_export(model: Any, recipe: str, calibration: np.ndarray) -> bytes:
    """What a user gets who has never heard of the trap."""
    import tensorflow as tf

    from edge_derm.quiet import quiet_native

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if recipe == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [x[None].astype(np.float32) / 128 - 1] for x in calibration
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet_native(everything=True), contextlib.redirect_stdout(io.StringIO()):
        return bytes(converter.convert())


def judge(model: bytes, pixels: np.ndarray, targets: np.ndarray, parent: np.ndarray) -> dict[str, Any]:
    """Figures of one file."""
    decided = Classifier.of(model).predict(pixels).argmax(axis=1)
    return {
        "bytes": len(model),
        "operators": dict(count_operators(check_model(model))),
        "accuracy": float((decided == targets).mean()),
        "agreement": float((decided == parent.argmax(axis=1)).mean()),
    }


def latency_ratio(fused: bytes, stock: bytes, image: np.ndarray) -> dict[str, Any]:
    """Fused over stock, interleaved."""
    first, second = Classifier.of(fused), Classifier.of(stock)
    a, b, verdict = benchmark.compare(lambda: first.predict(image), lambda: second.predict(image), runs=300)
    return {"fused_ms": a.record()["p50"], "stock_ms": b.record()["p50"], **verdict}


def instruction_ratio(fused: bytes, stock: bytes, target: str) -> dict[str, Any]:
    """Instructions of both on an emulated core, fused over stock, counted in one emulated process; null where it is not ready."""
    if not find_target(target).ready()[0]:
        return {"target": target, "fused": None, "stock": None, "ratio": None, "verdict": None}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "fused.tflite", Path(folder) / "stock.tflite"]
        for path, model in zip(paths, (fused, stock)):
            path.write_bytes(model)
        found = targets.bench(paths[0], target=target, compare=paths[1])
    return {
        "target": target,
        "fused": found["instructions"],
        "stock": found["other"]["instructions"],
        "ratio": found["ratio"],
        "verdict": found["verdict"],
        "emulator": found["emulator"],
        "parity": found["parity"],
    }


def measure(run: Path, chosen: Selection, calibration: Selection) -> dict[str, Any]:
    """Both exports of one run."""
    from edge_derm.modeling import export, runs, scoring

    model, record = runs.load(run)
    size_px, labels = record["size_px"], record["classes"]
    pixels, targets, images = chosen.pixels(size_px), chosen.targets(labels), calibration.pixels(size_px)
    parent = scoring.probabilities(model, pixels)
    result: dict[str, Any] = {
        "variant": record["variant"],
        "dilation": record["dilation"],
        "alpha": record["alpha"],
        "size_px": size_px,
        "images": len(pixels),
        "part": chosen.part,
        "accuracy_keras": float((parent.argmax(axis=1) == targets).mean()),
        "rows": [],
    }
    for recipe in ("float32", "int8"):
        fused = export.export(model, recipe=recipe, calibration=images).model
        stock = stock_export(model, recipe, images)
        result["rows"].append(
            {
                "recipe": recipe,
                "fused": judge(fused, pixels, targets, parent),
                "stock": judge(stock, pixels, targets, parent),
                "latency": latency_ratio(fused, stock, pixels[0]),
                "instructions": [instruction_ratio(fused, stock, target) for target in CORES],
            }
        )
    return result


def told(counted: dict[str, Any]) -> str:
    """One line about an emulated core."""
    if counted["ratio"] is None:
        return f"{counted['target']}: not ready: run 'edge-derm targets --prepare {counted['target']}'"
    return (
        f"{counted['target']}: fused {counted['fused']:,} instructions, stock {counted['stock']:,}: ratio "
        f"{counted['ratio']['value']:.3f} ({counted['verdict']})"
    )


@click.command()
@click.option("--run", type=click.Path(path_type=Path), help="A trained run of a dilated variant.")
@click.option("--data", default="synthetic:1200", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record here.")
def main(run: Path | None, data: str, json_file: Path | None) -> None:
    """Print the comparison; see the module's docstring."""
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            run = Path(folder) / "run"
            making.train(data, run, variant="d1", size_px=64, epochs=12)
        from edge_derm.modeling import runs

        made_from = runs.load(run)[1]["data"]
        origin = Provenance(data_digest=made_from["digest"], split=made_from["split"])
        chosen = select(data, part="auto", provenance=origin)
        training_part = "all" if chosen.part == "all" else "train"
        calibration = select(data, part=training_part, provenance=origin, dataset=chosen.dataset).sample(
            512, seed=0
        )
        result = {
            "record": "dilated_export",
            **measure(run, chosen, calibration),
            "environment": environment(command="benchmarks/dilated_export.py"),
        }
    for row in result["rows"]:
        fused, stock, latency = row["fused"], row["stock"], row["latency"]
        click.echo(
            f"{row['recipe']}: accuracy fused {fused['accuracy']:.3f}, stock {stock['accuracy']:.3f} (Keras "
            f"{result['accuracy_keras']:.3f}); agreement {fused['agreement']:.3f} / {stock['agreement']:.3f}; operators "
            f"{sum(fused['operators'].values())} / {sum(stock['operators'].values())}; bytes {fused['bytes']:,} / "
            f"{stock['bytes']:,}; latency ratio {latency['ratio']['value']:.3f} ({latency['verdict']})"
        )
        for counted in row["instructions"]:
            click.echo(f"  {told(counted)}")
    if json_file:
        files.write_json(json_file, result)


if __name__ == "__main__":
    sys.exit(main())

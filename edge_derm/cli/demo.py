"""``demo``: the main job on the built-in data, start to end in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import files, judging, making, using
from ..data import open_dataset
from . import options as shared

IMAGES = 1600
SIZE_PX = 64
EPOCHS = 20


@click.command()
@shared.setting("--out", click.Path(path_type=Path), Path("demo"), "Folder for everything it makes.")
@click.option(
    "--variant", type=click.Choice(["mobilenet", "d1", "d2", "d3"]), default="d1", show_default=True
)
@shared.setting("--images", click.IntRange(200), IMAGES, "Synthetic pictures to make.")
@click.option("--epochs", type=click.IntRange(1), default=EPOCHS, show_default=True)
@shared.seed_option
@shared.json_option
def demo(out: Path, variant: str, images: int, epochs: int, seed: int, json_file: str | None) -> None:
    """Synthetic data, training, int8 export, verification, benchmark and report.

    The pictures are drawn by a program: the figures say that the tools work, nothing about patients.

    \b
    Example:  edge-derm demo --out demo
    """
    quiet = json_file == "-"
    data, run, bundle = f"synthetic:{images}", out / "run", out / "model.bundle"
    records: list[dict[str, Any]] = []

    def step(number: int, text: str) -> None:
        click.echo(f"[{number}/5] {text}", err=quiet)

    step(1, f"training {variant} on {images} synthetic pictures")
    records.append(making.train(data, run, variant=variant, size_px=SIZE_PX, epochs=epochs, seed=seed))
    step(2, "exporting to int8")
    records.append(making.export(run, bundle, recipe="int8"))
    step(3, "verifying against the float parent, on both kernel families")
    verified, _ = judging.verify(bundle, data=data, against=run)
    records += [verified, judging.evaluate(bundle, data=data, seed=seed)]
    step(4, "measuring latency and memory")
    records.append(using.bench(bundle))
    step(5, "writing the report")
    pictures = save_pictures(data, seed, out / "pictures")
    records += using.predict(bundle, pictures)
    files.write_json(out / "records.json", shared.clean(records))
    page = using.report([out / "records.json"], out / "report.html")
    bench = next(record for record in records if record["record"] == "bench")
    result = {
        "record": "demo",
        "bundle": str(bundle),
        "report": page["report"],
        "accuracy_float": verified["accuracy_float"],
        "accuracy_int8": verified["accuracy_deployed"],
        "agreement": verified["agreement"],
        "latency_ms": bench["latency_ms"],
        "memory": bench["memory"],
    }
    shared.emit(
        result,
        json_file,
        (
            f"accuracy: float {result['accuracy_float']:.3f}, int8 {result['accuracy_int8']:.3f} "
            f"(agreement {result['agreement']['xnnpack']:.3f}); latency p50 {bench['latency_ms']['p50']:.3f} ms\n"
            f"bundle: {bundle}\nreport: {page['report']}"
        ),
    )


def save_pictures(data: str, seed: int, folder: Path, count: int = 8) -> list[Path]:
    """A few of the synthetic pictures as PNG files, for ``predict`` and to look at."""
    import cv2

    dataset = open_dataset(data, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(0, len(dataset), max(1, len(dataset) // count))[:count]:
        sample = dataset.samples[index]
        path = folder / f"{dataset.labels[sample.label]}-{index}.png"
        files.write_bytes(path, cv2.imencode(".png", dataset.read(index)[:, :, ::-1])[1].tobytes())
        paths.append(path)
    return paths

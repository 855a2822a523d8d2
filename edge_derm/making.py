"""The steps up to a bundle (``train``, ``compress``, ``export``, ``adopt``): each joins wings that never import one another, and
returns the command's record.

``cli`` parses and prints around them; anything that runs many of them (a sweep, a script) calls them directly.
TensorFlow is imported inside the steps that need it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from . import __version__
from .bundle import (
    Bundle,
    Dropout,
    Input,
    Manifest,
    Output,
    Provenance,
    check_model,
    describe_model,
    embed_metadata,
    write_bundle,
)
from .bundle import onnx
from .data import PREPROCESSING, split
from .data.split import again
from .errors import DataError, ModelError
from .inspecting import inspect, read_file
from .origin import command_line, provenance_of
from .runtime import Classifier, golden, load_engine
from .selection import select

GOLDEN_IMAGES = 8
ONNX_TOLERANCE = 1e-4


def train(data: str, out: Path, *, seed: int = 0, plane: int | None = None, **choices: Any) -> dict[str, Any]:
    """Train on a data set; see ``modeling.training`` for the choices. An interrupted run folder is resumed.

    Args:
        plane: steps between two points of the path over the information plane; None records none.
    """
    from .modeling import training
    from .modeling.plane import Recorder
    from .trust import infoplane

    dataset = select(data, seed=seed).dataset
    watchers = [] if plane is None else [Recorder(out, plane, infoplane.describe)]
    return training.run(dataset, out, seed=seed, callbacks=[tell_epoch], watchers=watchers, **choices)


def tell_epoch(state: Any, model: Any) -> None:
    """One line an epoch, at a terminal."""
    if sys.stderr.isatty():
        row = state.history[-1]
        left_min = state.seconds / state.epoch * (state.epochs - state.epoch) / 60
        print(
            f"epoch {state.epoch}/{state.epochs}: loss {row['loss']:.3f}, validation accuracy {row['validation_accuracy']:.3f}, "
            f"balanced {row['validation_balanced_accuracy']:.3f}, about {left_min:.1f} min left",
            file=sys.stderr,
        )


def compress(
    source: Path, out: Path, *, data: str | None = None, seed: int = 0, **choices: Any
) -> dict[str, Any]:
    """A trained run → a smaller run; see ``modeling.compression.tuning.Settings`` for the choices.

    An interrupted folder is resumed. The data are the run's own unless named; where they are, its split is made again.
    """
    from .modeling import runs
    from .modeling.compression import tuning

    model, run = runs.load(source)
    spec = data or (run.get("data") or {}).get("spec")
    if not run or spec is None:
        raise ModelError(
            f"{source}: expected a run folder, got a bare model: compress needs to know classes and data",
            code="run-missing",
        )
    dataset = select(spec, seed=seed, labels=run["classes"]).dataset
    same = run["data"]["digest"] == dataset.digest
    parts = again(dataset, run["data"]["split"]) if same else split(dataset, seed=seed)
    settings = tuning.Settings(seed=seed, **choices)
    return tuning.compress(model, run, dataset, parts, settings, out, callbacks=[tell_epoch])


def export(
    source: Path,
    out: Path,
    *,
    recipe: str = "int8",
    io: str | None = None,
    data: str | None = None,
    labels: Path | None = None,
    rounding: str | None = None,
    sensitivity: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """A trained run or anyone's .keras classifier → calibrated, converted, checked bundle with golden vectors."""
    from .modeling import export as exporting
    from .modeling import interface, runs

    model, run = runs.load(source)
    names = tuple(run["classes"]) if run else read_labels(labels, why=f"{source} does not carry them")
    size_px = exporting.input_size(model)
    images = images_for(source, run, data, size_px, recipe=recipe, rounding=rounding, seed=seed)
    product = exporting.export(
        model,
        recipe="float32" if recipe == "onnx" else recipe,
        io=io,
        calibration=images,
        rounding=rounding,
        ranges=run.get("ranges"),
        sensitivity=sensitivity,
    )
    dropped = interface.dropout_of(model)
    manifest = Manifest(
        labels=names,
        input=Input(size_px, product.input_dtype),
        output=Output(product.output_dtype),
        recipe=recipe,
        io=product.input_dtype,
        variant=run.get("variant"),
        alpha=run.get("alpha"),
        dilation=run.get("dilation") or {},
        preprocessing=dict(PREPROCESSING),
        dropout=None if dropped is None else Dropout(*dropped),
        provenance=provenance_of(source, run),
        metrics={
            **({"validation": run["validation"]} if run else {}),
            **({"sensitivity": list(product.sensitivity)} if sensitivity else {}),
        },
    )
    pixels = sample_pixels(size_px) if images is None else images[:GOLDEN_IMAGES]
    parts = onnx_part(product.model, names, pixels) if recipe == "onnx" else {}
    bundle = store(out, manifest, product.model, pixels, parts=parts)
    return {
        **inspect(bundle.path),
        "record": "export",
        "onnx_bytes": next((len(data) for _, data in parts.values()), None),
        "recipe": recipe,
        "dilated_depthwise": product.dilated_depthwise,
        "fused": product.fused,
        "rounding": product.rounding,
    }


def onnx_part(tflite: bytes, labels: Sequence[str], pixels: np.ndarray) -> dict[str, tuple[str, bytes]]:
    """The ONNX file of a float32 .tflite as a part of its bundle, after both gave the same scores on ``pixels``.

    Raises:
        ModelError: ``product-onnx``: they differ by more than 1e-4 in a probability.
    """
    from .modeling import onnx as converting

    data = converting.from_tflite(tflite)
    ours = Classifier.of(tflite, labels)
    theirs = Classifier(load_engine(data, backend="onnxruntime"), ours.manifest)
    apart = float(np.abs(ours.predict(pixels) - theirs.predict(pixels)).max())
    if not apart <= ONNX_TOLERANCE:
        raise ModelError(
            f"expected the ONNX file to score like the .tflite, within {ONNX_TOLERANCE}, got {apart:.2g}: "
            "do not use it; report the model's layers",
            code="product-onnx",
        )
    return {onnx.NAME: (onnx.ROLE, data)}


def adopt(
    path: Path,
    out: Path,
    *,
    labels: Path,
    mean: float | None = None,
    std: float | None = None,
    logits: bool = False,
) -> dict[str, Any]:
    """A bundle of anyone's .tflite image classifier: structure checked, labels and normalisation embedded."""
    model = read_file(path)
    check_model(model, where=str(path))
    manifest = describe_model(model, labels=read_labels(labels))
    if mean is not None or std is not None:
        pixels = manifest.input
        manifest = manifest.updated(
            input=Input(
                pixels.size_px,
                pixels.dtype,
                mean=pixels.mean if mean is None else (mean,),
                std=pixels.std if std is None else (std,),
            )
        )
    if logits:
        manifest = manifest.updated(output=Output(manifest.output.dtype, "logits"))
    manifest = manifest.updated(
        preprocessing=dict(PREPROCESSING),
        provenance=Provenance(source=path.name, versions={"edge_derm": __version__}, command=command_line()),
    )
    bundle = store(out, manifest, model, sample_pixels(manifest.input.size_px))
    return {**inspect(bundle.path), "record": "adopt"}


def store(
    out: Path,
    manifest: Manifest,
    model: bytes,
    pixels: np.ndarray,
    *,
    parts: Mapping[str, tuple[str, bytes]] | None = None,
) -> Bundle:
    """Embed labels and normalisation, make golden vectors, write the bundle."""
    model = embed_metadata(model, labels=manifest.labels, mean=manifest.input.mean, std=manifest.input.std)
    vectors = golden.make(model, pixels, labels=manifest.labels)
    return write_bundle(
        out, manifest, model=model, parts={golden.NAME: (golden.ROLE, vectors), **(parts or {})}
    )


def images_for(
    source: Path,
    run: dict[str, Any],
    data: str | None,
    size_px: int,
    *,
    recipe: str,
    rounding: str | None,
    seed: int,
) -> np.ndarray | None:
    """What a recipe looks at; None where it needs no images, and has no use for any or the run's own are not here."""
    from .modeling import export as exporting

    needed = exporting.needs_images(recipe, rounding)
    known = bool((run.get("data") or {}).get("spec")) and not run.get("ranges")
    if data is not None or needed or not exporting.needs_images(recipe, rounding, known=known):
        return calibration_images(source, run, data, size_px, needed=needed, seed=seed)
    try:
        return calibration_images(source, run, None, size_px, needed=True, seed=seed)
    except DataError:
        return None


def calibration_images(
    source: Path, run: dict[str, Any], data: str | None, size_px: int, *, needed: bool, seed: int
) -> np.ndarray | None:
    """Training images for calibration, uint8 [N, S, S, 3]; None where the recipe needs none and none were named."""
    spec = data or (run.get("data") or {}).get("spec")
    if not needed and data is None:
        return None
    if spec is None:
        raise ModelError(
            f"{source}: this recipe is calibrated on images and none are known: give --data DIR",
            code="calibration-missing",
        )
    dataset = select(spec, seed=seed).dataset
    recorded = (run.get("data") or {}).get("split")
    part = "train" if recorded and run["data"]["digest"] == dataset.digest else "all"
    chosen = select(spec, part=part, provenance=provenance_of(source, run), dataset=dataset)
    return chosen.sample(512, seed=seed).pixels(size_px)


def sample_pixels(size_px: int) -> np.ndarray:
    """Synthetic pictures for golden vectors where no images were given, uint8 [N, S, S, 3]."""
    dataset = select(f"synthetic:{GOLDEN_IMAGES}", seed=0).dataset
    return dataset.images(size_px)


def read_labels(path: Path | None, why: str = "they are not in the file") -> tuple[str, ...]:
    """One label a line, blank lines ignored."""
    if path is None:
        raise ModelError(
            f"expected labels, one a line, in the order of the outputs ({why}): give --labels FILE",
            code="labels-missing",
        )
    try:
        return tuple(line.strip() for line in read_file(path).decode("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path}: expected UTF-8 text, one label a line, got other bytes", code="labels-broken"
        ) from error

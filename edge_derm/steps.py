"""The steps of the main line: each joins two wings that never import one another, and returns the command's record.

``cli`` parses and prints around them; anything that runs many of them (a sweep, a script) calls them directly.
TensorFlow is imported inside the two steps that need it. Records hold only JSON's types after ``records.clean``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from . import __version__, files
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
    open_bundle,
    write_bundle,
)
from .bundle import onnx
from .data import PREPROCESSING, preprocess, read_image, split
from .data.split import again
from .errors import BackendError, BundleError, DataError, ModelError
from .runtime import Classifier, Prediction, golden, load_engine
from .runtime.features import Foreign
from .runtime.measures import measures
from .runtime.sampling import Sampler, Sampling
from .selection import select

GOLDEN_IMAGES = 8
MASK_PICTURE_PX = 384  # least side of a picture with its mask
ONNX_TOLERANCE = 1e-4


def inspect(path: Path) -> dict[str, Any]:
    """Operators, tensors, MACs, parameters, quantisation and warnings of a bundle or a bare .tflite."""
    from firmware_bridge.summary import summarize

    model, bundle = read_model(path)
    summary = summarize(check_model(model, where=str(path)))
    return {
        "record": "inspect",
        "path": str(path),
        "size_bytes": len(model),
        **asdict(summary),
        "operators": dict(summary.operators),
        "manifest": json.loads(bundle.manifest.dumps()) if bundle else None,
    }


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
    images = calibration_images(
        source, run, data, size_px, needed=exporting.needs_calibration(recipe), seed=seed
    )
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


def predict(
    path: Path,
    images: Sequence[Path],
    *,
    mc: int = 0,
    tta: int = 0,
    dropout: float | None = None,
    ensemble: Sequence[Path] = (),
    backend: str = "litert",
    threads: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One record an image: label, probabilities, uncertainty, conformal set, abstain; what is off is None.

    Args:
        mc, tta, ensemble: passes under dropout, views, further bundles; the decision is then the mean's.
    """
    if not mc and not tta and not ensemble:
        bundle = open_bundle(path)
        classifier = Classifier.open(bundle, backend=backend, threads=threads)
        foreign = Foreign(bundle) if backend == "litert" else None
        records = []
        for image in images:
            pixels = preprocess(read_image(image), classifier.size_px)[np.newaxis]
            decided = classifier.decide(classifier.predict(pixels))[0]
            records.append(_predicted(image, decided, {}, 1, seed, foreign, pixels))
        return records
    if backend != "litert":
        raise BackendError(
            f"--mc, --tta and --ensemble: expected the backend litert, got {backend}", code="backend-sampling"
        )
    sampler = Sampler(
        [open_bundle(p) for p in (path, *ensemble)], Sampling(mc, tta, dropout, seed=seed), threads=threads
    )
    foreign = Foreign(open_bundle(path))
    records = []
    for image in images:
        pixels = preprocess(read_image(image), sampler.first.size_px)[np.newaxis]
        passes = sampler.sample(pixels)
        told = {name: float(value[0]) for name, value in measures(passes).items()}
        decided = sampler.first.decide(passes.mean(axis=0, dtype=np.float64))[0]
        records.append(_predicted(image, decided, told, len(passes), seed, foreign, pixels))
    return records


def _predicted(
    image: Path,
    decided: Prediction,
    told: dict[str, float],
    passes: int,
    seed: int,
    foreign: Foreign | None,
    pixels: np.ndarray,
) -> dict[str, Any]:
    distance = None if foreign is None else foreign.distance(pixels)
    return {
        "record": "predict",
        "image": str(image),
        "label": decided.label,
        "confidence": decided.confidence,
        "probabilities": dict(decided.probabilities),
        "entropy": decided.entropy,
        "variance": told.get("variance"),
        "bhattacharyya": told.get("bhattacharyya"),
        "mutual_information": told.get("mutual_information"),
        "passes": passes,
        "seed": seed if told else None,
        "prediction_set": decided.prediction_set,
        "abstained": decided.abstained,
        "distance": distance,
        "foreign": None if foreign is None or distance is None else foreign.is_foreign(distance),
    }


def bench(
    path: Path,
    *,
    compare: Path | None = None,
    target: str = "local",
    runs: int = 200,
    backend: str = "litert",
    threads: int = 1,
    profile: bool = False,
    soak_min: float | None = None,
    count_instructions: bool = False,
) -> dict[str, Any]:
    """Latency, memory and operators on a target."""
    from .measure import targets

    return targets.bench(
        path,
        target=target,
        compare=compare,
        runs=runs,
        backend=backend,
        threads=threads,
        profile=profile,
        soak_min=soak_min,
        command=command_line(),
        count_instructions=count_instructions,
    )


def report(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """One HTML page from run folders, bundles and JSON records."""
    from .report import page

    records: list[dict[str, Any]] = []
    for path in paths:
        records.extend(records_at(path))
    page.render(records, out)
    return {"record": "report", "report": str(out)}


def records_at(path: Path) -> list[dict[str, Any]]:
    """The records a path stands for: a run's, a bundle's (as ``inspect`` gives it), or a JSON file's."""
    if (path / "run.json").is_file():
        return [json.loads((path / "run.json").read_text(encoding="utf-8"))]
    if path.is_dir():
        return [inspect(path)]
    try:
        value = json.loads(read_file(path))
    except ValueError as error:
        raise DataError(
            f"{path}: expected a run folder, a bundle or a JSON record, got no JSON ({error}): "
            "make records with --json FILE",
            code="record-broken",
        ) from error
    records = value if isinstance(value, list) else [value]
    if not all(isinstance(record, dict) for record in records):
        raise DataError(
            f"{path}: expected a JSON object or a list of them, got other values", code="record-broken"
        )
    return records


def check_same_labels(parent: Sequence[str], deployed: Sequence[str], where: Path) -> None:
    """A parent is one only if it knows the same classes in the same order."""
    if tuple(parent) != tuple(deployed):
        raise BundleError(
            f"{where}: expected the labels {', '.join(deployed)}, got {', '.join(parent)}: "
            "give the run this bundle was exported from",
            code="labels-differ",
        )


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


def provenance_of(source: Path, run: dict[str, Any]) -> Provenance:
    """Where a model came from, for the manifest."""
    data = run.get("data") or {}
    return Provenance(
        source=source.name,
        data_digest=data.get("digest"),
        split=data.get("split"),
        seed=run.get("seed"),
        versions=run.get("versions") or {"edge_derm": __version__},
        command=command_line(),
    )


def command_line() -> str:
    """The command as typed, without the folder of the program."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def read_model(path: Path) -> tuple[bytes, Bundle | None]:
    """The .tflite bytes at ``path``: of a verified bundle, or a bare file."""
    if path.is_dir():
        bundle = open_bundle(path)
        return bundle.model, bundle
    return read_file(path), None


def read_file(path: Path) -> bytes:
    """A file's bytes; a missing one or a folder is named."""
    if not path.is_file():
        raise BundleError(
            f"{path}: expected a bundle folder or a file, found {'a folder' if path.is_dir() else 'nothing'}",
            code="file-missing",
        )
    return path.read_bytes()


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


def draw_masks(path: Path, images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Where a bundle with attention looked: ``out``/NAME-mask.png for each image, what the model saw with its mask over it.

    Raises:
        ModelError: ``attention-missing``.
    """
    import cv2

    from .runtime.attention import Masks, overlay

    bundle = open_bundle(path)
    masks, size_px = Masks(bundle), bundle.manifest.input.size_px
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for image in images:
        picture = read_image(image)
        mask = masks.of(preprocess(picture, size_px)[np.newaxis])[0]
        shown = overlay(preprocess(picture, max(size_px, MASK_PICTURE_PX)), mask)
        file = out / f"{image.stem}-mask.png"
        files.write_bytes(file, cv2.imencode(".png", shown[..., ::-1])[1].tobytes())
        figures = {"least": float(mask.min()), "mean": float(mask.mean()), "most": float(mask.max())}
        records.append({"file": str(file), **figures})
    return records


def sample_pixels(size_px: int) -> np.ndarray:
    """Synthetic pictures for golden vectors where no images were given, uint8 [N, S, S, 3]."""
    dataset = select(f"synthetic:{GOLDEN_IMAGES}", seed=0).dataset
    return dataset.images(size_px)

"""What a bare .tflite says about itself: the manifest an adopted file starts from."""

from __future__ import annotations

from typing import Sequence

from edge_derm.bundle.manifest import DTYPES, Input, Manifest, Output
from edge_derm.bundle.metadata import Embedded, read_metadata
from edge_derm.bundle.structure import check_model
from edge_derm.errors import BundleError
from firmware_bridge.graph import Graph, Tensor

_PASSING = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE")


def describe_model(tflite: bytes, *, labels: Sequence[str] | None = None) -> Manifest:
    """A manifest (without files) for anyone's image classifier.

    Normalisation: a uint8 input is the pixel and an int8 input the pixel − 128, whatever the scale says; an
    int8 or float input with normalisation in its TFLite Metadata follows that; a float input without takes
    pixel/128 − 1.

    Args:
        labels: one per score; by default the file's own, else ``class0``, ``class1``, …. A repeated label (ImageNet
            has two cranes) is numbered: ``crane``, ``crane (2)``.

    Raises:
        BundleError: ``model-…``, ``metadata-broken``, ``model-interface`` (not one square RGB image to one
            score per class), ``model-labels`` (not as many as scores).
    """
    graph = check_model(tflite)
    embedded = read_metadata(tflite)
    pixels, scores = _edge(graph)
    named = tuple(labels) if labels is not None else embedded.labels
    classes = scores.shape[-1]
    if named is None:
        named = tuple(f"class{i}" for i in range(classes))
    if len(named) != classes:
        raise BundleError(
            f"labels: the model has {classes} scores, got {len(named)} labels: give one a line, in the "
            "model's order",
            code="model-labels",
        )
    mean, std = _normalisation(pixels, embedded)
    return Manifest(
        labels=_numbered(named),
        input=Input(size_px=pixels.shape[1], dtype=pixels.dtype, mean=mean, std=std),
        output=Output(dtype=scores.dtype, activation=_activation(graph)),
        recipe="adopted",
        io=pixels.dtype,
    )


def _numbered(labels: Sequence[str]) -> tuple[str, ...]:
    numbered: dict[str, None] = {}
    for label in labels:
        again, count = label, 1
        while again in numbered:
            count += 1
            again = f"{label} ({count})"
        numbered[again] = None
    return tuple(numbered)


def _edge(graph: Graph) -> tuple[Tensor, Tensor]:
    if len(graph.inputs) != 1 or not graph.outputs:
        raise _not_a_classifier(f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs")
    pixels, scores = graph.tensor(graph.inputs[0]), graph.tensor(graph.outputs[0])
    square = len(pixels.shape) == 4 and pixels.shape[1] == pixels.shape[2] > 0 and pixels.shape[3] == 3
    if not square or pixels.dtype not in DTYPES:
        raise _not_a_classifier(f"input {pixels.dtype} {list(pixels.shape)}")
    if not scores.shape or scores.dtype not in DTYPES or not scores.elements == scores.shape[-1] >= 2:
        raise _not_a_classifier(f"output {scores.dtype} {list(scores.shape)}")
    return pixels, scores


def _normalisation(pixels: Tensor, embedded: Embedded) -> tuple[tuple[float, ...], tuple[float, ...]]:
    stated = embedded.mean and embedded.std and all(value > 0 for value in embedded.std)
    if stated and pixels.dtype != "uint8":
        return embedded.mean or (), embedded.std or ()
    quantization = pixels.quantization
    if pixels.dtype not in ("uint8", "int8") or quantization is None or not quantization.scale.size:
        return (128.0,), (128.0,)
    # The mean and deviation at which "stored = pixel" (or pixel − 128) holds exactly for this scale and zero
    # point.
    shift = 0 if pixels.dtype == "uint8" else 128
    return (float(quantization.zero_point[0]) + shift,), (1.0 / float(quantization.scale[0]),)


def _activation(graph: Graph) -> str:
    made_by = {output: op for op in graph.ops for output in op.outputs}
    op = made_by.get(graph.outputs[0])
    while op is not None and op.name in _PASSING and op.inputs:
        op = made_by.get(op.inputs[0])
    return "softmax" if op is not None and op.name == "SOFTMAX" else "logits"


def _not_a_classifier(got: str) -> BundleError:
    return BundleError(
        f"model.tflite: expected one square RGB image in and one score per class out, got {got}",
        code="model-interface",
    )

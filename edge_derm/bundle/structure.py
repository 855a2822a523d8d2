"""The structural check that every .tflite passes before a native loader may see it."""

from __future__ import annotations

from edge_derm.bundle.manifest import Manifest
from edge_derm.errors import BundleError
from firmware_bridge import tflite
from firmware_bridge.graph import FormatError, Graph, Tensor


def check_model(data: bytes, *, where: str = "model.tflite") -> Graph:
    """The model in ``data`` as a graph, every offset of the file checked, in pure Python.

    Args:
        where: what to call the file in an error.

    Raises:
        BundleError: the bytes are not a well-formed .tflite; the reader's own code behind ``model-``.
    """
    try:
        return tflite.parse(data)
    except FormatError as error:
        raise BundleError(f"{where}: {error}", code=f"model-{error.code}") from None


def check_interface(graph: Graph, manifest: Manifest) -> None:
    """Refuse a model whose edge is not the one the manifest describes.

    Raises:
        BundleError: ``model-interface``.
    """
    if not graph.inputs or not graph.outputs:
        raise _mismatch("at least one input and one output", "none")
    pixels, scores = graph.tensor(graph.inputs[0]), graph.tensor(graph.outputs[0])
    side = manifest.input.size_px
    if (
        len(pixels.shape) != 4
        or tuple(pixels.shape[1:]) != (side, side, 3)
        or pixels.dtype != manifest.input.dtype
    ):
        raise _mismatch(f"input {manifest.input.dtype} [N, {side}, {side}, 3]", _describe(pixels))
    classes = len(manifest.labels)
    if not scores.shape or scores.shape[-1] != classes or scores.dtype != manifest.output.dtype:
        raise _mismatch(
            f"output {manifest.output.dtype} [N, {classes}], one score per label", _describe(scores)
        )


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _mismatch(expected: str, got: str) -> BundleError:
    return BundleError(
        f"model.tflite: the manifest says {expected}, the file has {got}: export or adopt it again",
        code="model-interface",
    )

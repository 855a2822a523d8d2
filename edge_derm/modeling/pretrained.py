"""Weights to start from: Keras' MobileNet files, anyone's MobileNet v1 ``.tflite``, or a finished run.

A ``.tflite`` file holds convolutions with their batch norms folded in, often as bytes. They are read back as numbers, and each
batch norm is given the mean and the spread that its input has on some pictures: in inference the network is then the file's own,
and in training, where batches are normalised by themselves, it starts from the same place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from edge_derm.errors import ModelError
from edge_derm.modeling import attention as attending
from edge_derm.modeling import runs
from edge_derm.modeling.architecture import LOGITS
from firmware_bridge.graph import BridgeError, Graph, Tensor
from firmware_bridge.tflite import parse

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def start_from(model: keras.Model, path: Path, pixels: np.ndarray) -> None:
    """Load weights into ``model``: ``.h5`` (Keras, no top), ``.tflite``, or a finished run (its folder or ``.keras`` file).

    Args:
        pixels: uint8 [N, S, S, 3], what the network will see; only a ``.tflite`` needs them.

    Raises:
        ModelError: ``weights-missing``, ``weights-broken``, ``weights-shape``, and what ``runs.load`` raises.
    """
    if path.suffix == ".tflite":
        load_tflite(model, path, pixels)
    elif path.suffix == ".keras" or path.is_dir():
        _load_run(model, path)
    else:
        load_imagenet(model, path)


def _load_run(model: keras.Model, path: Path) -> None:
    values = runs.load(path)[0].get_weights()
    wanted, found = [w.shape for w in model.get_weights()], [v.shape for v in values]
    if wanted != found:
        raise ModelError(
            f"{path}: expected a model of the same variant, --alpha and classes, got other weights "
            f"({len(found)} arrays for {len(wanted)}, or of other shapes): repeat the options it was trained with",
            code="weights-shape",
        )
    model.set_weights(values)


def load_tflite(model: keras.Model, path: Path, pixels: np.ndarray) -> None:
    """Load the convolutions of a MobileNet v1 ``.tflite`` (uint8, int8 or float), whatever stands behind them.

    Args:
        pixels: uint8 [N, S, S, 3] to measure the batch norms on; some 64 will do.

    Raises:
        ModelError: ``weights-missing``, ``weights-broken``, ``weights-shape`` (another alpha or network).
    """
    names = [layer.name[: -len("_bn")] for layer in model.layers if layer.name.endswith("_bn")]
    found = _convolutions(_read_graph(path))
    wanted = [tuple(model.get_layer(name).kernel.shape) for name in names]
    got = [kernel.shape for kernel, _ in found[: len(names)]]
    if wanted != got:
        raise ModelError(
            f"{path}: expected the {len(names)} convolutions of this MobileNet v1, got {len(got)}"
            f"{_first_difference(wanted, got)}: the file must be of the same --alpha",
            code="weights-shape",
        )
    for name, (kernel, bias) in zip(names, found):
        norm = model.get_layer(f"{name}_bn")
        model.get_layer(name).kernel.assign(kernel)
        norm.set_weights(
            [np.ones_like(bias), bias, np.zeros_like(bias), np.full_like(bias, 1 - norm.epsilon)]
        )
    _spread(model, names, pixels)


def _read_graph(path: Path) -> Graph:
    if not path.is_file():
        raise ModelError(f"{path}: expected a .tflite file, found no such file", code="weights-missing")
    try:
        return parse(path.read_bytes())
    except BridgeError as error:
        raise ModelError(f"{path}: expected a .tflite file, got {error}", code="weights-broken") from error


def _convolutions(graph: Graph) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel in Keras' layout and bias of each convolution, float32; TFLite's are [out, k, k, in] and [1, k, k, channels]."""
    found = []
    for op in graph.ops:
        stored = [graph.tensor(i) for i in op.inputs[1:3]] if op.name in CONVOLUTIONS else []
        if len(stored) == 2 and all(tensor.data is not None for tensor in stored):
            kernel, bias = (_real(tensor) for tensor in stored)
            found.append((kernel.transpose(1, 2, 3, 0), bias))
    return found


def _real(tensor: Tensor) -> np.ndarray:
    """The numbers that a tensor's bytes stand for."""
    assert tensor.data is not None
    stored = tensor.data.reshape(tensor.shape)
    if tensor.quantization is None:
        return stored.astype(np.float32)
    shape = [1] * stored.ndim
    shape[tensor.quantization.axis] = -1
    zero, scale = (x.reshape(shape) for x in (tensor.quantization.zero_point, tensor.quantization.scale))
    return ((stored.astype(np.int64) - zero) * scale).astype(np.float32)


def _first_difference(wanted: list[Any], got: list[Any]) -> str:
    return next((f", of {g} where {w} was due" for w, g in zip(wanted, got) if w != g), "")


def _spread(model: keras.Model, names: list[str], pixels: np.ndarray) -> None:
    """Give each batch norm the statistics of its input, and the scale and shift that undo them."""
    watched = keras.Model(model.input, [model.get_layer(name).output for name in names])
    for name, seen in zip(names, watched.predict_on_batch(pixels.astype(np.float32) / 128 - 1)):
        norm = model.get_layer(f"{name}_bn")
        bias = norm.get_weights()[1]
        mean, variance = seen.mean(axis=(0, 1, 2)), seen.var(axis=(0, 1, 2))
        norm.set_weights([np.sqrt(variance + norm.epsilon), bias + mean, mean, variance])


def load_imagenet(model: keras.Model, path: Path) -> None:
    """Load a Keras MobileNet weight file without top (``mobilenet_*_tf_no_top.h5``) by layer name.

    Raises:
        ModelError: ``weights-missing``, ``weights-broken``, ``weights-shape`` (another alpha).
    """
    found = _read_h5(path)
    for layer in model.layers:
        if not layer.weights or layer.name in (LOGITS, attending.NAME):
            continue
        values = found.get(layer.name)
        if values is None:
            raise ModelError(
                f"{path}: expected weights of layer {layer.name}, found none: give the no_top .h5 of Keras' MobileNet",
                code="weights-broken",
            )
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if sum(v.size for v in values) != sum(int(np.prod(shape)) for shape in wanted) or len(values) != len(
            wanted
        ):
            raise ModelError(
                f"{path}: layer {layer.name}: expected shapes {wanted}, got {[v.shape for v in values]}: "
                "the file must be of the same --alpha",
                code="weights-shape",
            )
        layer.set_weights([value.reshape(shape) for value, shape in zip(values, wanted)])


def _read_h5(path: Path) -> dict[str, list[np.ndarray]]:
    import h5py

    if not path.is_file():
        raise ModelError(
            f"{path}: expected a Keras .h5 weight file, found no such file", code="weights-missing"
        )
    found: dict[str, list[np.ndarray]] = {}
    try:
        with h5py.File(path, "r") as file:
            for name in file.attrs["layer_names"]:
                group = file[name]
                found[_text(name)] = [np.array(group[weight]) for weight in group.attrs["weight_names"]]
    except (OSError, KeyError) as error:
        raise ModelError(
            f"{path}: expected a Keras .h5 weight file, got {error}", code="weights-broken"
        ) from error
    return found


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)

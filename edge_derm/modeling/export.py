"""Keras + recipe + calibration images → .tflite bytes that were checked to be what was asked for.

Batch is fixed to 1: every runtime, microcontroller and delegate takes that, and the classifier resizes where it wants more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from edge_derm.errors import ModelError
from edge_derm.modeling import fusing
from edge_derm.modeling.compression import quantise
from edge_derm.modeling.inspection import check_product
from edge_derm.modeling.interface import input_size, need_tensorflow, with_probabilities
from edge_derm.quiet import quiet_native
from firmware_bridge.summary import Summary

RECIPES = ("float32", "float16", "dynamic", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")
ROUNDED = (*CALIBRATED, "dynamic")  # recipes whose int8 weights may be chosen on images
LEAST = 1024  # weights of a kernel that the converter makes int8 in ``dynamic``; smaller ones stay float32
ROUNDINGS = ("reconstruct", "nearest")
TRAINED = "trained"  # rounding of a network that was trained with int8 simulated
EDGES = {"int8": ("int8", "uint8", "float32")}  # others: float32 only


@dataclass(frozen=True)
class Export:
    """The product: .tflite bytes and what the check found in them."""

    model: bytes
    summary: Summary
    fused: bool  # every dilated layer is one operator with its batch norm folded
    rounding: str | None = None  # of int8 weights: one of ROUNDINGS, or TRAINED
    sensitivity: Sequence[Mapping[str, Any]] = ()  # what each rounding costs alone, where that was asked for

    @property
    def input_dtype(self) -> str:
        return self.summary.inputs[0].dtype

    @property
    def output_dtype(self) -> str:
        return self.summary.outputs[0].dtype

    @property
    def dilated_depthwise(self) -> int:
        return self.summary.dilated_depthwise


def export(
    model: keras.Model,
    *,
    recipe: str,
    io: str | None = None,
    calibration: np.ndarray | None = None,
    rounding: str | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    sensitivity: bool = False,
) -> Export:
    """Convert, and check the product.

    Args:
        model: one image in, float [N, S, S, 3] in pixel/128 − 1; probabilities out, or logits, behind which a softmax is put.
        recipe: ``float32``, ``float16`` (weights), ``dynamic`` (int8 weights), ``int8``, ``int16x8`` (activations × weights).
        io: tensors at the edge, ``int8``, ``uint8`` or ``float32``; default int8 for ``int8``, float32 otherwise.
        calibration: preprocessed images, uint8 [N, S, S, 3], for ``int8`` and ``int16x8``, and for ``reconstruct``. Black and
            white are added, so that the input scale is exactly 1/128: a uint8 input is the pixel, an int8 input the pixel − 128.
        rounding: of int8 weights: ``reconstruct`` (``compression.quantise``: keeps each layer's output; networks of the MobileNet
            family, and images, only), ``nearest`` (the converter's own), None: the first that is possible.
        ranges: of a model trained with int8 simulated, by the layer whose output they are of; ``int8`` then takes them and the
            weights as they are, unless ``rounding`` says otherwise.
        sensitivity: also measure what the rounding of each layer costs alone (``int8`` by reconstruction).

    Raises:
        ModelError: ``recipe-unknown``, ``recipe-io``, ``recipe-rounding``, ``recipe-sensitivity``, ``chain-structure``,
            ``calibration-missing``, ``keras-interface``, ``keras-output``, ``conversion-failed``,
            ``backend-tensorflow``, and what ``check_product`` finds.
    """
    need_tensorflow("export")
    io = check_choice(recipe, io)
    size_px = input_size(model)
    if needs_images(recipe, rounding) and (calibration is None or not len(calibration)):
        raise ModelError(
            f"recipe {recipe}: expected calibration images, got none: give --data", code="calibration-missing"
        )
    model = with_probabilities(model)
    if sensitivity and (recipe != "int8" or rounding == "nearest"):
        raise ModelError(
            f"sensitivity: expected recipe int8 by reconstruction, got {recipe} {rounding or ''}".rstrip(),
            code="recipe-sensitivity",
        )
    table: Sequence[Mapping[str, Any]] = ()
    if ranges and rounding is None and recipe in ROUNDED:
        fused, rounding = fusing.fuse(model, ranges if recipe == "int8" else None), TRAINED
    else:
        fused, rounding, table = _prepared(model, recipe, rounding, calibration, sensitivity)
    data = convert(fused, recipe=recipe, io=io, size_px=size_px, calibration=calibration)
    summary = check_product(data, recipe=recipe, io=io, rates=fusing.dilation_rates(model))
    return Export(data, summary, fused=True, rounding=rounding, sensitivity=table)


def _prepared(
    model: keras.Model, recipe: str, rounding: str | None, pixels: np.ndarray | None, sensitivity: bool
) -> tuple[keras.Model, str | None, Sequence[Mapping[str, Any]]]:
    """The model to convert, how its weights were rounded, and what each rounding costs alone."""
    if recipe not in ROUNDED:
        return fusing.fuse(model), None, ()
    if rounding not in (None, *ROUNDINGS):
        raise ModelError(
            f"rounding: expected {' or '.join(ROUNDINGS)}, got {rounding!r}", code="recipe-rounding"
        )
    if rounding == "nearest" or (rounding is None and (pixels is None or not len(pixels))):
        return fusing.fuse(model), "nearest", ()
    assert pixels is not None
    try:
        if recipe != "int8":
            least = LEAST if recipe == "dynamic" else 0
            return fusing.fuse(quantise.prepare_weights(model, pixels, least=least)), "reconstruct", ()
        prepared = quantise.prepare(model, pixels, sensitivity=sensitivity)
        return fusing.fuse(prepared.model, prepared.ranges), "reconstruct", prepared.sensitivity
    except ModelError as error:
        if rounding is not None or sensitivity or error.code != "chain-structure":
            raise
        return fusing.fuse(model), "nearest", ()


def check_choice(recipe: str, io: str | None) -> str:
    """The edge type of a recipe; refuse combinations that do not exist."""
    if recipe not in RECIPES:
        raise ModelError(
            f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}", code="recipe-unknown"
        )
    allowed = EDGES.get(recipe, ("float32",))
    if io is not None and io not in allowed:
        raise ModelError(f"recipe {recipe}: expected --io {' or '.join(allowed)}, got {io}", code="recipe-io")
    return io or allowed[0]


def needs_images(recipe: str, rounding: str | None = None, *, known: bool = False) -> bool:
    """Whether to look at images: where a recipe cannot do without, and where it gains by them and they are known."""
    gains = recipe in ROUNDED and rounding != "nearest"
    return recipe in CALIBRATED or gains and (known or rounding == "reconstruct")


def convert(
    model: keras.Model, *, recipe: str, io: str, size_px: int, calibration: np.ndarray | None
) -> bytes:
    """TensorFlow's converter on a model as it stands; used directly only to compare with what ``export`` does.

    Raises:
        ModelError: ``conversion-failed``.
    """
    call = tf.function(lambda image: model(image, training=False))
    concrete = call.get_concrete_function(tf.TensorSpec((1, size_px, size_px, 3), tf.float32, name="image"))
    frozen = convert_variables_to_constants_v2(concrete)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], model)
    _configure(converter, recipe, io, calibration)
    try:
        with silence():
            return bytes(converter.convert())
    except Exception as error:  # the converter raises many kinds, MLIR diagnostics included
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model does not convert to {recipe}: {reason}", code="conversion-failed"
        ) from error


def _configure(converter: Any, recipe: str, io: str, calibration: np.ndarray | None) -> None:
    if recipe == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if recipe not in CALIBRATED:
        return
    assert calibration is not None
    converter.representative_dataset = lambda: _representative(calibration)
    ops = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    if recipe == "int16x8":
        ops = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [ops]
    if io != "float32":
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)


def _representative(calibration: np.ndarray) -> Iterator[list[np.ndarray]]:
    black_and_white = np.zeros_like(calibration[:1])
    black_and_white[:, ::2] = 255
    for image in (*black_and_white, *calibration):
        yield [image[np.newaxis].astype(np.float32) / 128 - 1]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """The converter talks on stdout, stderr, logging and warnings; none of it is for a user."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_native(everything=True), warnings.catch_warnings(), open(
            os.devnull, "w"
        ) as null, contextlib.redirect_stdout(null):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""Make the tests' tiny seeded models: ``python tests/tiny_models.py OUT`` (needs TensorFlow; run as a child
process).

One network, 32×32×3 → 4 classes, with a dilated depthwise convolution: ``int8.tflite``, ``uint8.tflite``,
``int16.tflite`` (int16 activations, int8 weights), ``float32.tflite`` and ``float16.tflite`` (float16 weights).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from pictures import varied_images  # noqa: E402

SIZE_PX, CLASSES, SEED = 32, 4, 7
RECIPES = ("int8", "uint8", "int16", "float32", "float16")


def network() -> tf.types.experimental.ConcreteFunction:
    """float32 [N, 32, 32, 3] in pixel/128 − 1 → probabilities [N, 4]."""
    rng = np.random.default_rng(SEED)
    stem = tf.constant(rng.normal(0, 0.4, (3, 3, 3, 8)), tf.float32)
    depth = tf.constant(rng.normal(0, 0.4, (3, 3, 8, 1)), tf.float32)
    point = tf.constant(rng.normal(0, 0.5, (1, 1, 8, 16)), tf.float32)
    head = tf.constant(rng.normal(0, 2.5, (16, CLASSES)), tf.float32)
    biases = [rng.normal(0, 0.2, channels).astype(np.float32) for channels in (8, 8, 16)]

    def exported(x: tf.Tensor) -> tf.Tensor:  # becomes one dilated operator; TensorFlow itself cannot run it
        strides, dilations = [1, 1, 1, 1], [1, 2, 2, 1]
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x, filter=depth, strides=strides, padding="SAME", dilations=dilations
        )

    def runnable(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.depthwise_conv2d(x, depth, [1, 1, 1, 1], "SAME", dilations=[2, 2])

    def features(x: tf.Tensor, depthwise: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        x = tf.nn.relu6(tf.nn.conv2d(x, stem, 2, "SAME") + biases[0])
        x = depthwise(x)
        x = tf.nn.relu6(x + biases[1])
        x = tf.nn.relu6(tf.nn.conv2d(x, point, 1, "SAME") + biases[2])
        return tf.reduce_mean(x, axis=[1, 2]) @ head

    # Centred on the calibration pictures, so that no class wins everywhere.
    offset = tf.constant(
        -tf.reduce_mean(features(tf.concat(calibration(), axis=0), runnable), axis=0).numpy()
    )

    def forward(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(features(x, exported) + offset)

    spec = tf.TensorSpec([None, SIZE_PX, SIZE_PX, 3], tf.float32, name="image")
    return tf.function(forward).get_concrete_function(spec)


def calibration() -> list[np.ndarray]:
    """float32 [1, 32, 32, 3] each; black and white among them, so that the input scale is 1/128."""
    pixels = varied_images(30, seed=SEED)
    pixels = np.concatenate([pixels, np.full_like(pixels[:1], 0), np.full_like(pixels[:1], 255)])
    return [(image[None] / 128 - 1).astype(np.float32) for image in pixels]


def convert(recipe: str) -> bytes:
    """The network as .tflite bytes."""
    function = network()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], function)
    if recipe != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif recipe != "float32":
        converter.representative_dataset = lambda: ([image] for image in calibration())
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            (
                ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
                if recipe == "int16"
                else ops.TFLITE_BUILTINS_INT8
            )
        ]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, recipe)
    return converter.convert()


if __name__ == "__main__":
    for name in RECIPES:
        Path(sys.argv[1], f"{name}.tflite").write_bytes(convert(name))

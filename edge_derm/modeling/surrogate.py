"""A differentiable twin of a .tflite: the deployed file's own weights, read back as real numbers, in a TensorFlow function.

For an attacker who has only the file, which is every attacker of a sold device: quantisation hides no gradient. Values between
the operators are not rounded, so the twin's answers are nearly the file's; the audit says how nearly.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import numpy as np
import tensorflow as tf

from edge_derm.bundle import Manifest, check_model
from edge_derm.errors import ModelError
from edge_derm.modeling.gradients import Twofold

_EDGES = ("QUANTIZE", "DEQUANTIZE")
_ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "NONE": lambda x: x,
    "RELU": tf.nn.relu,
    "RELU6": tf.nn.relu6,
    "RELU_N1_TO_1": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "TANH": tf.tanh,
}


class Surrogate(Twofold):
    """The two callables an audit takes, of a .tflite alone.

    Args:
        model: a .tflite that passed ``check_model``. manifest: how it wants its pixels.

    Raises:
        ModelError: ``surrogate-operator``: an operator this does not know, named.
    """

    def __init__(self, model: bytes, manifest: Manifest) -> None:
        self._graph = check_model(model)
        unknown = sorted({op.name for op in self._graph.ops} - set(_OPERATORS) - set(_EDGES))
        if unknown:
            raise ModelError(
                f"audit: expected operators out of {', '.join(sorted((*_OPERATORS, *_EDGES)))}, got {', '.join(unknown)}: "
                "give the float parent of this file (--against RUN)",
                code="surrogate-operator",
            )
        self._constants = {t.index: real(t) for t in self._graph.tensors if t.data is not None}
        self._mean = tf.constant(manifest.input.mean, tf.float32)
        self._std = tf.constant(manifest.input.std, tf.float32)
        self._flipped = manifest.input.colour_order == "bgr"
        last = self._graph.ops[-1]
        while last.name in _EDGES:
            last = next(op for op in self._graph.ops if last.inputs[0] in op.outputs)
        self._end = last.inputs[0] if last.name == "SOFTMAX" else last.outputs[0]
        logits = last.name == "SOFTMAX" or manifest.output.activation == "logits"
        super().__init__(manifest.input.size_px, logits=logits)

    def scores(self, pixels: Any) -> Any:
        """Logits (probabilities, of a file that ends in none) of real-valued pixels, float32 [N, S, S, 3]."""
        pixels = pixels[..., ::-1] if self._flipped else pixels
        values: dict[int, Any] = {self._graph.inputs[0]: (pixels - self._mean) / self._std}
        for op in self._graph.ops:
            if self._end in values:
                break
            taken = [values[i] if i in values else self._constants.get(i) for i in op.inputs]
            made = taken[0] if op.name in _EDGES else _OPERATORS[op.name](*taken, **op.options)
            values[op.outputs[0]] = _ACTIVATIONS[op.options.get("fused_activation_function", "NONE")](made)
        return tf.reshape(values[self._end], (tf.shape(pixels)[0], -1))


def real(tensor: Any) -> np.ndarray:
    """The real values of a constant: scale · (stored − zero point); whole numbers without a scale stay."""
    stored, quantization = np.asarray(tensor.data), tensor.quantization
    if quantization is None or not len(quantization.scale) or stored.dtype.kind == "f":
        return stored.astype(np.float32) if stored.dtype.kind == "f" else stored
    along = [1] * stored.ndim
    if quantization.per_channel:
        along[quantization.axis] = -1
    steps = stored.astype(np.float64) - quantization.zero_point.reshape(along)
    return (steps * quantization.scale.reshape(along)).astype(np.float32)


def _convolve(x: Any, kernel: Any, bias: Any = None, **options: Any) -> Any:
    strides = options["stride_h"], options["stride_w"]
    rates = options["dilation_h_factor"], options["dilation_w_factor"]
    made = tf.nn.conv2d(x, np.moveaxis(kernel, 0, -1), strides, options["padding"], dilations=rates)
    return made if bias is None else made + bias


def _convolve_depthwise(x: Any, kernel: Any, bias: Any = None, **options: Any) -> Any:
    channels = int(x.shape[-1])
    kernel = kernel.reshape(*kernel.shape[1:3], channels, -1)
    rates = options["dilation_h_factor"], options["dilation_w_factor"]
    strides = (1, options["stride_h"], options["stride_w"], 1)
    if max(rates) > 1 and max(strides) > 1:
        raise ModelError(
            "audit: expected a depthwise convolution with a stride or a dilation, got both",
            code="surrogate-operator",
        )
    made = tf.nn.depthwise_conv2d(x, kernel, strides, options["padding"], dilations=rates)
    return made if bias is None else made + bias


def _connect(x: Any, kernel: Any, bias: Any = None, **options: Any) -> Any:
    made = tf.reshape(x, (-1, kernel.shape[1])) @ kernel.T
    return made if bias is None else made + bias


def _pool(kind: str) -> Callable[..., Any]:
    def pool(x: Any, **options: Any) -> Any:
        window = options["filter_height"], options["filter_width"]
        return tf.nn.pool(
            x, window, kind, strides=(options["stride_h"], options["stride_w"]), padding=options["padding"]
        )

    return pool


def _reshape(x: Any, *shape: Any, **options: Any) -> Any:
    wanted = shape[0].tolist() if shape else list(options["new_shape"])
    return tf.reshape(x, (-1, *wanted[1:]))


_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "ADD": lambda a, b, **_: a + b,
    "AVERAGE_POOL_2D": _pool("AVG"),
    "CONCATENATION": lambda *parts, axis, **_: tf.concat(parts, axis),
    "CONV_2D": _convolve,
    "DEPTHWISE_CONV_2D": _convolve_depthwise,
    "FULLY_CONNECTED": _connect,
    "LOGISTIC": lambda x, **_: tf.sigmoid(x),
    "MAX_POOL_2D": _pool("MAX"),
    "MEAN": lambda x, axes, keep_dims=False, **_: tf.reduce_mean(
        x, axes.ravel().tolist(), keepdims=keep_dims
    ),
    "MUL": lambda a, b, **_: a * b,
    "PAD": lambda x, widths, **_: tf.pad(x, widths),
    "RELU": lambda x, **_: tf.nn.relu(x),
    "RELU6": lambda x, **_: tf.nn.relu6(x),
    "RESHAPE": _reshape,
    "SOFTMAX": lambda x, beta=1.0, **_: tf.nn.softmax(beta * x),
}

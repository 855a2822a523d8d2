"""Bundle → ``Classifier.predict(images)``: inference without TensorFlow."""

from edge_derm.runtime.backends import BACKENDS, KERNELS, ONNX_BACKENDS, Engine, TensorSpec, load_engine
from edge_derm.runtime.classifier import Classifier
from edge_derm.runtime.decision import Prediction

__all__ = [
    "BACKENDS",
    "KERNELS",
    "ONNX_BACKENDS",
    "Classifier",
    "Engine",
    "Prediction",
    "TensorSpec",
    "load_engine",
]

"""The checked float32 .tflite → the same network as ONNX, by tf2onnx: batch norms folded, one Conv per dilated layer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edge_derm.bundle.onnx import check_onnx
from edge_derm.errors import BundleError, ModelError
from edge_derm.modeling.export import silence

OPSET = 17  # ONNX Runtime 1.12 and later, TensorRT 8.6 and later, OpenCV 4.10 and later


def from_tflite(tflite: bytes) -> bytes:
    """ONNX bytes with input [1, S, S, 3] (NHWC, as the .tflite) and output [1, C].

    Args:
        tflite: a float32 model that ``export`` made; tf2onnx is native code's reader and gets no one else's file.

    Raises:
        ModelError: ``onnx-missing`` (tf2onnx is not installed), ``conversion-failed``.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ModelError(
            f"recipe onnx: expected the package tf2onnx, found none ({error}): pip install 'edge-derm[onnx]'",
            code="onnx-missing",
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(tflite)
        try:
            with silence():
                model, _ = tf2onnx.convert.from_tflite(str(path), opset=OPSET)
        except Exception as error:  # tf2onnx raises many kinds
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"the model does not convert to ONNX: {reason}", code="conversion-failed"
            ) from error
    data = bytes(model.SerializeToString(deterministic=True))
    try:
        check_onnx(data)
    except BundleError as error:
        raise ModelError(
            f"tf2onnx wrote a file that is refused: {error}", code="conversion-failed"
        ) from error
    return data

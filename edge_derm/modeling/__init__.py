"""Keras in, bundle material out. TensorFlow and Keras are loaded here and nowhere else.

Training and distillation run on Keras' TensorFlow or JAX (``KERAS_BACKEND=jax``, for a GPU); everything that makes files, on
TensorFlow.
"""

import os

# oneDNN's kernels are off by default on processors without AVX-512; with them a training step takes 0.6 to 0.8 of the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from edge_derm.quiet import quiet_native  # noqa: E402

if os.environ["KERAS_BACKEND"] == "tensorflow":
    with quiet_native(everything=True):  # which GPU libraries are absent is nobody's news
        import tensorflow  # noqa: E402

        tensorflow.config.list_physical_devices(
            "GPU"
        )  # asks for the driver now, and not in the middle of a conversion

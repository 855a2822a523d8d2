"""firmware_bridge: an int8 .tflite in, plain C99 out, bit-exact with TensorFlow Lite's reference kernels."""

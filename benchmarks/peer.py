"""One peer of ``peers.py``, in the Python that has it: loads a model, then times blocks of calls when asked.

    python peer.py NAME MODEL FRAME.npy SIZE_PX

Speaks JSON lines. First line: ``{"scores": {STAGE: [...]}, "version": ...}`` or ``{"missing": reason}``. Then for each
``{"stage", "warm", "runs"}`` on standard input, ``{"ns": [...]}``. Stages: ``invoke``, from pixels that the model's input tensor
takes as they are to its scores; ``frame``, from a BGR frame to probabilities. Some also have ``bare``, the engine's call alone,
and ``pixels``, the preprocessing of a frame alone.
"""

import json
import os
import sys
import time

import numpy as np

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)  # native libraries write on 1 as they like
os.dup2(2, 1)


def say(value):
    ANSWERS.write(json.dumps(value) + "\n")


def resize(frame, size_px):
    """The product's own pixels: the same for every peer that has no preprocessing itself."""
    from edge_derm.data.preprocess import preprocess

    return preprocess(frame, size_px, order="bgr")


def encode(pixels, dtype):
    """A uint8 input takes the pixel; a float one pixel/128 − 1."""
    one = pixels[np.newaxis]
    return (
        one if np.dtype(dtype) == np.uint8 else one.astype(np.float32) * np.float32(1 / 128) - np.float32(1)
    )


def both(run, dtype, frame, size_px, scale=None, zero=0):
    """The two stages of an engine that is a function from input tensor to output tensor."""
    ready = encode(resize(frame, size_px), dtype)

    def whole():
        scores = run(encode(resize(frame, size_px), dtype))[0]
        return scores if not scale else (scores.astype(np.float32) - zero) * np.float32(scale)

    def inner():
        return run(ready)[0]

    return {"invoke": inner, "frame": whole}


def edge_derm(model, frame, size_px, backend="litert"):
    from edge_derm.data import preprocess
    from edge_derm.runtime import Classifier

    if os.path.isdir(model):
        classifier = Classifier.open(model, backend=backend)
    else:
        with open(model, "rb") as file:
            classifier = Classifier.of(file.read(), backend=backend)
    pixels = preprocess(frame, size_px, order="bgr")
    return {
        "invoke": lambda: classifier.predict(pixels)[0],
        "frame": lambda: classifier.predict(preprocess(frame, size_px, order="bgr"))[0],
        "pixels": lambda: preprocess(frame, size_px, order="bgr"),
    }


def interpreter(module, model, frame, size_px):
    """What everybody writes: set_tensor, invoke, get_tensor."""
    interpreter = module.Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(tensor):
        interpreter.set_tensor(given["index"], tensor)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    scale, zero = made["quantization"]
    stages = both(run, given["dtype"], frame, size_px, scale, zero)
    return {**stages, "bare": lambda: interpreter.invoke()}


def litert(model, frame, size_px):
    import ai_edge_litert.interpreter

    return interpreter(ai_edge_litert.interpreter, model, frame, size_px)


def tflite_runtime(model, frame, size_px):
    import tflite_runtime.interpreter

    return interpreter(tflite_runtime.interpreter, model, frame, size_px)


def litert_benchmark(model, frame, size_px):
    """The calls that ``litert-benchmark`` times (CompiledModel.run_by_name), with input written and output read as a user must."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.environment import Environment, EnvironmentOptions
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, Options

    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=1))
    compiled = CompiledModel.from_file(
        model, environment=Environment.create(options=EnvironmentOptions()), options=options
    )
    key = next(iter(compiled.get_signature_list()), "serving_default")
    (given,), (made,) = (
        list(details(key).items())
        for details in (compiled.get_input_tensor_details, compiled.get_output_tensor_details)
    )
    source, sink = compiled.create_input_buffer_by_name(key, given[0]), compiled.create_output_buffer_by_name(
        key, made[0]
    )
    count, dtype = int(np.prod(made[1]["shape"])), np.dtype(made[1]["dtype"])

    def run(tensor):
        source.write(tensor)
        compiled.run_by_name(key, {given[0]: source}, {made[0]: sink})
        return [np.asarray(sink.read(count, dtype.type))]

    quantised = dtype.kind != "f"
    stages = both(run, given[1]["dtype"], frame, size_px, 1 / 256 if quantised else None)
    return {**stages, "bare": lambda: compiled.run_by_name(key, {given[0]: source}, {made[0]: sink})}


def onnxruntime(model, frame, size_px):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return both(lambda tensor: session.run(None, {name: tensor})[0], np.float32, frame, size_px)


def opencv(model, frame, size_px):
    import cv2

    net = cv2.dnn.readNetFromONNX(model)

    def run(tensor):
        net.setInput(tensor)
        return net.forward()

    return both(run, np.float32, frame, size_px)


def mediapipe(model, frame, size_px):
    """Its own resizing, its own threads; ``invoke`` is ``classify`` on an image that already has the model's size."""
    import cv2
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model), max_results=-1)
    classifier = vision.ImageClassifier.create_from_options(options)
    small = np.ascontiguousarray(
        cv2.resize(frame, (size_px, size_px), interpolation=cv2.INTER_AREA)[..., ::-1]
    )

    def classify(rgb):
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
        found = classifier.classify(image).classifications[0].categories
        return [category.score for category in sorted(found, key=lambda category: category.index)]

    return {
        "invoke": lambda: classify(small),
        "frame": lambda: classify(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)),
    }


PEERS = {
    "edge_derm": edge_derm,
    "edge_derm onnxruntime": lambda *given: edge_derm(*given, backend="onnxruntime"),
    "edge_derm opencv": lambda *given: edge_derm(*given, backend="opencv"),
    "litert": litert,
    "litert-benchmark": litert_benchmark,
    "tflite-runtime": tflite_runtime,
    "onnxruntime": onnxruntime,
    "opencv": opencv,
    "mediapipe": mediapipe,
}
PACKAGES = {
    "edge_derm": "edge-derm",
    "litert": "ai-edge-litert",
    "litert-benchmark": "ai-edge-litert",
    "opencv": "opencv-python-headless",
}


def version(name):
    import importlib.metadata

    name = name.split()[-1]
    try:
        return importlib.metadata.version(PACKAGES.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None


def main():
    name, model, frame, size_px = sys.argv[1], sys.argv[2], np.load(sys.argv[3]), int(sys.argv[4])
    try:
        import cv2

        cv2.setNumThreads(1)
        stages = PEERS[name](model, frame, size_px)
        scores = {stage: np.asarray(stages[stage](), np.float64).tolist() for stage in ("invoke", "frame")}
    except Exception as error:  # a peer that cannot run is a row that says why
        say({"missing": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        return
    say({"scores": scores, "version": version(name), "stages": list(stages)})
    for line in sys.stdin:
        asked = json.loads(line)
        call, taken = stages[asked["stage"]], []
        for i in range(asked["warm"] + asked["runs"]):
            start = time.perf_counter_ns()
            call()
            elapsed = time.perf_counter_ns() - start
            if i >= asked["warm"]:
                taken.append(elapsed)
        say({"ns": taken})


if __name__ == "__main__":
    main()

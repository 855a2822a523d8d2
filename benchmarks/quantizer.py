"""ai-edge-quantizer at work for ``export_vs_quantizer.py``, in the Python that has it: of one float32 .tflite, a file a recipe.

    python quantizer.py FLOAT.tflite IMAGES.npy FOLDER RECIPE …

IMAGES are uint8 [N, S, S, 3]; as in this package's export one of black and white comes before them. Writes FOLDER/RECIPE.tflite;
the last line on standard output is JSON: ``{"version": …, "made": {RECIPE: {} or {"missing": reason}}}``.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe, recipe_manager
from ai_edge_quantizer.utils import qsv_utils

Algorithm, Operator = algorithm_manager.AlgorithmName, qtyping.TFLOperationName
KERNELS = (Operator.CONV_2D, Operator.DEPTHWISE_CONV_2D, Operator.FULLY_CONNECTED)
AVERAGED = "static-averaged"


def static(algorithm, operators):
    """All-integer: ``algorithm`` for these operators, which are all it knows, the tool's plain one for the others."""
    rules = recipe_manager.RecipeManager()
    bits = {"activation_num_bits": 8, "weight_num_bits": 8}
    rules.add_static_config(".*", Operator.ALL_SUPPORTED, **bits)
    for operator in operators:
        rules.add_static_config(".*", operator, algorithm_key=algorithm, **bits)
    return rules.get_quantization_recipe()


RECIPES = {
    AVERAGED: recipe.static_wi8_ai8,  # as the tool comes: ranges are moving averages over the images
    "static": recipe.static_wi8_ai8,  # from here on ranges hold every value that was seen
    "static-octav": lambda: recipe.static_wi8_ai8(algorithm_key=Algorithm.OCTAV),
    "static-mse": lambda: static(Algorithm.MSE, KERNELS),
    "static-gptq": lambda: static(Algorithm.GPTQ, KERNELS[2:]),
    "static16": recipe.static_wi8_ai16,
    "dynamic": recipe.dynamic_wi8_afp32,
    "weights": recipe.weight_only_wi8_afp32,
}


def samples(pixels):
    """Inputs of the float model."""
    black_and_white = np.zeros_like(pixels[:1])
    black_and_white[:, ::2] = 255
    return [image[np.newaxis].astype(np.float32) / 128 - 1 for image in (*black_and_white, *pixels)]


def widest(known, new):
    """Ranges that hold all values; GPTQ's moments are averaged, as the tool does."""
    if not known:
        return new
    found = qsv_utils.min_max_update(known, new)
    if "hessian" in new:
        seen, more = known["num_samples"], new["num_samples"]
        found["hessian"] = (known["hessian"] * seen + new["hessian"] * more) / (seen + more)
        found["num_samples"] = seen + more
    return found


def calibrate(model, rules, pixels, update):
    """What static recipes need to know of each tensor. Rule by rule: the tool keeps for a tensor what the operator that writes
    it collects, and GPTQ would miss the moments of what it reads."""
    found = {}
    for rule in rules:
        seen = calibrator.Calibrator(model, num_threads=1, **update)
        ((signature, ends),) = seen.get_signature_list().items()
        manager = recipe_manager.RecipeManager()
        manager.load_quantization_recipe([rule])
        seen.calibrate({signature: [{ends["inputs"][0]: x} for x in samples(pixels)]}, manager)
        for name, values in seen.get_model_qsvs().items():
            found[name] = {**found.get(name, {}), **values}
    return found


def make(model, name, pixels):
    """The file of one recipe, as bytes."""
    rules = RECIPES[name]()
    tool = quantizer.Quantizer(model, rules)
    known = None
    if tool.need_calibration:
        known = calibrate(model, rules, pixels, {} if name == AVERAGED else {"qsv_update_func": widest})
    return tool.quantize(known, enable_progress_report=False).quantized_model


def main(model, images, folder, *names):
    made, pixels = {}, np.load(images)
    for name in names:
        try:
            Path(folder, f"{name}.tflite").write_bytes(make(model, name, pixels))
            made[name] = {}
        except Exception as error:  # a recipe the tool cannot do for this model is a row that says so
            made[name] = {"missing": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    print(json.dumps({"version": importlib.metadata.version("ai-edge-quantizer"), "made": made}))


if __name__ == "__main__":
    main(*sys.argv[1:])

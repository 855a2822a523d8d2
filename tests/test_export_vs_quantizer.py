"""The comparison with ai-edge-quantizer: what the tool is given, how files are judged, and what the committed record says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_derm.runtime import Classifier
from scripts_of import BENCHMARKS, benchmark


@pytest.fixture(scope="module")
def versus():
    """benchmarks/export_vs_quantizer.py as a module."""
    return benchmark("export_vs_quantizer")


def test_a_file_is_judged_against_its_parent_by_kernel_family(versus, tiny_models, tiny_images):
    wanted = Classifier.of(tiny_models["float32"]).predict(tiny_images)
    targets = wanted.argmax(axis=1)
    targets[:3] = (targets[:3] + 1) % wanted.shape[1]
    part = versus.Judged("test", tiny_images, targets, wanted, [str(i) for i in range(len(targets))])
    same, rounded = (versus.describe(tiny_models[name], [part]) for name in ("float32", "int8"))
    assert same["size_bytes"] == len(tiny_models["float32"]) and not same["integer"] and rounded["integer"]
    assert same["parts"][0]["agreement"] == {"xnnpack": 1.0, "reference": 1.0}
    assert same["parts"][0]["accuracy_float"] == 9 / 12
    reference = Classifier.of(tiny_models["int8"], kernels="reference").predict(tiny_images)
    agreement = (reference.argmax(axis=1) == wanted.argmax(axis=1)).mean()
    assert rounded["parts"][0]["agreement"]["reference"] == pytest.approx(agreement)


def test_a_python_without_the_tool_is_refused_and_what_was_made_is_not_made_again(versus, tmp_path):
    with pytest.raises(SystemExit, match="--quantizer.*ai_edge_quantizer"):
        versus.quantised(Path(sys.executable), tmp_path, "levelled")
    assert not list(tmp_path.glob("*.json"))
    answer = {"version": "0", "made": {"static": {}}}
    (tmp_path / "levelled.json").write_text(json.dumps(answer))
    assert versus.quantised(tmp_path / "no-python", tmp_path, "levelled") == answer


@pytest.mark.slow
def test_the_tool_gets_the_same_network_and_the_weights_that_our_own_files_hold(
    versus, chain_model, tmp_path
):
    from edge_derm.data import open_dataset
    from firmware_bridge.tflite import parse

    chain_model.save(tmp_path / "net.keras")
    folder = versus.given(tmp_path / "net.keras", tmp_path / "given", "synthetic:64")
    pixels = open_dataset("synthetic:64").images(48)
    assert np.array_equal(np.load(folder / "images.npy"), pixels)
    models = {name: (folder / f"{name}.tflite").read_bytes() for name in versus.GIVEN}
    scores = {name: Classifier.of(model).predict(pixels) for name, model in models.items()}
    assert np.abs(scores["levelled"] - scores["network"]).max() <= 0.02
    assert scores["network"].std() > 0.1
    for name in ("prepared", "rounded"):
        graph = parse(models[name])
        for op in graph.ops:
            if op.name not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                continue
            weights = np.asarray(graph.tensor(op.inputs[1]).data, np.float64)
            kernel = weights.reshape(graph.tensor(op.inputs[1]).shape)
            channels = np.moveaxis(kernel, -1 if op.name == "DEPTHWISE_CONV_2D" else 0, 0)
            steps = channels.reshape(len(channels), -1) * 127
            steps = steps / np.abs(steps).max(axis=1, keepdims=True) * 127
            assert np.abs(steps - np.round(steps)).max() <= 0.01, (name, op.name)


def test_the_record_holds_every_recipe_and_ours_decides_more_like_float_than_any_8_bit_file_of_the_network(
    versus,
):
    record = json.loads((BENCHMARKS / "results" / "export_vs_quantizer.json").read_text())
    runs = {row["run"] for row in record["rows"]}
    theirs = {(source, name) for source, names in versus.GIVEN.items() for name in names}
    assert runs >= {"d1", "d2"} and "/" not in record["environment"]["command"].split(".py", 1)[1]

    def agreement(row):
        return sum(sum(part["agreement"].values()) * part["images"] for part in row["parts"])

    for run in runs:
        rows = {(row["by"], row["given"], row["recipe"]): row for row in record["rows"] if row["run"] == run}
        assert {key[1:] for key in rows if key[0] == "ai-edge-quantizer"} == theirs
        ours = rows["edge-derm", "network", "int8"]
        static = [row for key, row in rows.items() if key[1] == "network" and key[2].startswith("static")]
        eight_bits = [row for row in static if row["recipe"] != "static16"]
        assert ours["integer"] and len(eight_bits) == 5
        assert agreement(ours) > max(agreement(row) for row in eight_bits)

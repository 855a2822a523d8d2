"""The per-operator profile: cuts compute what the whole computes there, costs add up, and a planted slow operator is found."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edge_derm.bundle import check_model
from edge_derm.cli.bench import cost
from edge_derm.errors import TargetError
from edge_derm.measure import profile
from edge_derm.measure.profile import best_copies, cut


def interpret(model, pixels, *, keep=False):
    """LiteRT's reference kernels on one input; with ``keep`` every tensor stays readable."""
    interpreter = Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=keep,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    return interpreter


@pytest.mark.parametrize("recipe", ["int8", "float32", "int16"])
def test_every_cut_ends_with_the_tensor_the_whole_model_has_there(tiny_models, recipe):
    model = tiny_models[recipe]
    graph = check_model(model)
    dtype = np.dtype(graph.tensor(graph.inputs[0]).dtype)
    pixels = np.random.default_rng(0).integers(0, 100, (1, 32, 32, 3)).astype(dtype)
    pixels = pixels / np.float32(100) if dtype.kind == "f" else pixels
    whole = interpret(model, pixels, keep=True)
    for k, op in enumerate(graph.ops):
        piece = cut(model, graph, k)
        assert len(piece) == len(model) and len(check_model(piece).ops) == k + 1
        made = interpret(piece, pixels)
        detail = made.get_output_details()
        assert [entry["index"] for entry in detail] == [op.outputs[0]]
        np.testing.assert_array_equal(made.get_tensor(op.outputs[0]), whole.get_tensor(op.outputs[0]))
    assert check_model(model).outputs == graph.outputs  # the model itself was not touched


def test_weights_stored_as_float16_are_no_operators_of_the_profile(tiny_models, monkeypatch):
    monkeypatch.setattr(profile, "ROUNDS", 30)
    found = profile.profile(tiny_models["float16"])
    names = [op.name for op in check_model(tiny_models["float16"]).ops]
    assert [row["name"] for row in found["operators"]] == [name for name in names if name != "DEQUANTIZE"]
    assert names.count("DEQUANTIZE") == 8 and found["whole_ms"] > 0


def test_costs_telescope_to_the_whole_and_carry_the_written_out_arithmetic(tiny_int8, monkeypatch):
    monkeypatch.setattr(profile, "ROUNDS", 30)
    found = profile.profile(tiny_int8)
    graph = check_model(tiny_int8)
    assert [row["name"] for row in found["operators"]] == [op.name for op in graph.ops]
    assert found["rounds"] == 30 and "sub-graphs" in found["method"] and found["whole_ms"] > 0
    assert abs(sum(row["share"] for row in found["operators"]) - 1) < 1e-9
    for row in found["operators"]:
        assert row["cost_ms"]["low"] <= row["cost_ms"]["value"] <= row["cost_ms"]["high"]
    first = next(row for row in found["operators"] if row["name"] == "CONV_2D")
    filters = graph.tensor(graph.ops[first["index"]].inputs[1]).shape
    assert first["macs"] == np.prod(first["output_shape"]) * np.prod(filters[1:])


def test_a_planted_slow_operator_is_the_dearest(monkeypatch, tiny_int8):
    rng, count = np.random.default_rng(0), len(check_model(tiny_int8).ops)

    def planted(cuts):
        costs = np.full(count, 0.01)
        costs[2] = 0.5
        noise = rng.uniform(0, 0.004, (40, profile.COPIES, count))
        return (np.cumsum(costs) + noise).reshape(40, -1)

    monkeypatch.setattr(profile, "time_in_turn", planted)
    rows = profile.profile(tiny_int8)["operators"]
    assert max(rows, key=lambda row: row["cost_ms"]["value"])["index"] == 2
    assert rows[2]["cost_ms"]["value"] == pytest.approx(0.5, abs=0.01)


def test_a_copy_that_lies_badly_in_memory_is_not_the_one_that_counts():
    taken = np.ones((5, 2, 3))
    taken[:, 0, 1] = 9.0
    assert best_copies(taken).tolist() == np.ones((5, 3)).tolist()


def test_a_model_of_too_many_operators_is_refused(monkeypatch, tiny_int8):
    monkeypatch.setattr(profile, "OPERATORS_MOST", 2)
    with pytest.raises(TargetError, match="1 to 2 operators") as caught:
        profile.profile(tiny_int8)
    assert caught.value.code == "profile-operators"


def test_a_cost_whose_interval_reaches_zero_is_not_printed_as_a_figure():
    row = {"cost_ms": {"value": 0.001, "low": -0.0002, "high": 0.0015}, "share": 0.01}
    assert cost(row) == "not measurable (below 1.5 µs)"
    assert cost({"cost_ms": {"value": 0.01, "low": 0.009, "high": 0.012}, "share": 0.5}).startswith(
        "    10.0 µs"
    )

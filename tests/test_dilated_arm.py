"""A dilated network exported with its one dilated operator costs fewer arm64 instructions than the converter's own export."""

import numpy as np
import pytest

from edge_derm import making
from edge_derm.bundle import check_model
from edge_derm.runtime import Classifier
from firmware_bridge.summary import count_operators
from scripts_of import benchmark

SIZE_PX = 64


@pytest.mark.arm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")  # the stock converter's own
@pytest.mark.parametrize("recipe", ["float32", "int8"])
def test_the_fused_export_beats_the_stock_one_in_instructions(tree, recipe, capsys):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed: nothing can be exported")
    from edge_derm.modeling import export

    dilated, about = benchmark("dilated_export"), {"variant": "d1", "alpha": 0.25, "size_px": SIZE_PX}
    model, calibration = benchmark("family").untrained(about)
    rounding = "nearest" if recipe == "int8" else None  # as the stock converter: only the operators differ
    fused = export.export(model, recipe=recipe, calibration=calibration, rounding=rounding).model
    stock = dilated.stock_export(model, recipe, calibration)
    operators = [count_operators(check_model(each)) for each in (fused, stock)]
    assert "SPACE_TO_BATCH_ND" not in operators[0] and operators[1]["SPACE_TO_BATCH_ND"] > 0
    if recipe == "float32":  # int8 rounds another graph: an unfolded batch norm
        images = making.sample_pixels(SIZE_PX)
        scores = [Classifier.of(each).predict(images) for each in (fused, stock)]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    counted = dilated.instruction_ratio(fused, stock, "qemu:cortex-a72")
    with capsys.disabled():
        print(f"\n{recipe}: {dilated.told(counted)}")
    assert counted["verdict"] == "fewer" and counted["ratio"]["high"] < 0.98

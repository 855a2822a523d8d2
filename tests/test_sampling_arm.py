"""The same seed gives the same passes on an emulated arm64 core, up to stated steps of the int8 scores."""

import json
import subprocess
import sys

import pytest

from edge_derm.bundle import Dropout, open_bundle, update_bundle
from edge_derm.measure import arm64

# LiteRT 2.1 on arm64 against the one installed here. Reference kernels: the same integers. XNNPACK rounds in its own way on each
# processor, as it does without dropout: one step of 1/256 in a score.
STEPS = {"reference": 0, "default": 1}

SCRIPT = """
import json, sys
import numpy as np
from edge_derm.bundle import open_bundle
from edge_derm.runtime.dropout import DropoutPasses
from edge_derm.runtime.views import views
rng = np.random.default_rng(7)
images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
seen = views(images, 10, seed=3).reshape(-1, 32, 32, 3)
told = {"views": int(seen.astype(np.int64).sum()), "weighed": int((seen.reshape(-1).astype(np.int64) * np.arange(seen.size)).sum())}
for kernels in ("default", "reference"):
    passes = DropoutPasses(open_bundle(sys.argv[1]), 8, seed=11, kernels=kernels)
    told["masks"] = [int(mask.astype(np.int64).reshape(-1) @ np.arange(mask.size)) for mask in passes.masks]
    told[kernels] = passes.stored(images).astype(int).tolist()
print(json.dumps(told))
"""


@pytest.mark.arm
@pytest.mark.slow
def test_a_seed_gives_the_same_passes_on_another_processor(tree, tiny_bundle):
    import numpy as np

    update_bundle(open_bundle(tiny_bundle), dropout=Dropout(0.3, 2))
    there = json.loads(arm64.run(tree, "cortex-a72", ["-c", SCRIPT, str(tiny_bundle)]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_bundle)], capture_output=True, text=True, check=True
    )
    here = json.loads(done.stdout)
    for what in ("views", "weighed", "masks"):
        assert there[what] == here[what]
    for kernels, steps in STEPS.items():
        apart = np.abs(np.array(there[kernels]) - np.array(here[kernels])).max()
        print(kernels, apart)
        assert apart <= steps, kernels
    assert np.array(here["reference"]).std(axis=0).max() > 0

"""A bad grid file is refused, with its line, before anything is trained."""

import json
import subprocess
import sys

import pytest

from edge_derm.errors import ModelError
from edge_derm.sweep.grid import RECIPES, VARIANTS, read_grid

GOOD = """# a comment: sizes = []
variants = ["mobilenet",
            "d2"]
widths = [0.25, 0.5]

sizes = [96,
  128,  # the usual
]
recipes = ["int8"]
seeds = [0, 1]

[train]
epochs = 3
dropout = 0
[bench]
runs = 50
[evaluate]
part = "test"
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        (tmp_path / "grid.toml").write_text(text)
        return tmp_path / "grid.toml"

    return written


def test_a_grid_is_every_combination_a_whole_survey_a_seed(write):
    grid = read_grid(write(GOOD))
    assert len(grid.trainings()) == 2 * 2 * 2 * 2 and len(grid.cells()) == 16
    assert [t.seed for t in grid.trainings()] == [0] * 8 + [1] * 8
    assert grid.cells()[0].name == "mobilenet-a0.25-96px-s0-int8"
    assert grid.options["train"] == {"epochs": 3, "dropout": 0} and grid.options["bench"] == {"runs": 50}


def test_what_is_left_out_is_as_train_has_it(write):
    assert [cell.name for cell in read_grid(write("")).cells()] == ["mobilenet-a0.25-128px-s0-int8"]


@pytest.mark.parametrize(
    "old, new, line, code, words",
    [
        ("widths", "widhts", 4, "grid-key", ["widhts", "did you mean widths"]),
        ("epochs", "epoch", 13, "grid-key", ["train.epoch", "did you mean epochs"]),
        ("[bench]", "[batch]", 15, "grid-key", ["batch"]),
        ("[0, 1]", "[]", 10, "grid-empty", ["seeds", "empty list"]),
        ("  128,", "  16,", 7, "grid-value", ["sizes", "from 32 to 1024", "16"]),
        ("  128,", "  128.5,", 7, "grid-value", ["128.5"]),
        ("  128,", "  96,", 6, "grid-twice", ["96 twice"]),
        ("0.5]", "1.5]", 4, "grid-value", ["widths", "from 0.25 to 1.0", "1.5"]),
        ('"d2"', '"d9"', 3, "grid-value", ["variants", "d9", "mobilenet, d1, d2, d3"]),
        ('["int8"]', '["int4"]', 9, "grid-value", ["int4", "int16x8"]),
        ('["int8"]', '"int8"', 9, "grid-value", ["expected a list", "write ['int8']"]),
        ("seeds = [0, 1]", "seeds = [0, true]", 10, "grid-value", ["True"]),
        ("epochs = 3", "epochs = 0", 13, "grid-value", ["train.epochs"]),
        ("runs = 50", "targets = []", 16, "grid-empty", ["bench.targets"]),
        ("epochs = 3", 'weights = "gone.h5"', 13, "grid-weights", ["gone.h5"]),
        ("epochs = 3", 'weights = {"0.25" = "grid.toml"}', 13, "grid-weights", ["none for 0.5"]),
        ('["int8"]', '["int8"', 10, "grid-syntax", []),
    ],
)
def test_a_bad_grid_is_refused_with_its_line(write, old, new, line, code, words):
    path = write(GOOD.replace(old, new, 2) if old == "widths" else GOOD.replace(old, new, 1))
    with pytest.raises(ModelError) as raised:
        read_grid(path)
    assert raised.value.code == code
    for word in [str(path), f"line {line}", *words]:
        assert word in str(raised.value), str(raised.value)


@pytest.mark.parametrize(
    "text", ['train = 3\nvariants = ["d1"]\n', 'train = { epoch = 3 }\nvariants = ["d1"]\n']
)
def test_a_table_written_otherwise_is_refused_with_its_line_too(write, text):
    with pytest.raises(ModelError, match="line 1: train"):
        read_grid(write(text))


def test_weights_are_found_beside_the_grid_file(write, tmp_path):
    (tmp_path / "w.h5").touch()
    found = read_grid(write(GOOD.replace("epochs = 3", 'weights = {"0.25" = "w.h5", "0.5" = "w.h5"}')))
    assert found.options["train"]["weights"] == {
        "0.25": str(tmp_path / "w.h5"),
        "0.5": str(tmp_path / "w.h5"),
    }


@pytest.mark.slow
def test_the_grid_knows_what_modeling_knows():
    """The lists are repeated so that whoever only schedules loads no TensorFlow."""
    script = """
import json
from edge_derm.modeling import export, stages
print(json.dumps([list(stages.VARIANTS), list(export.RECIPES)]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [list(VARIANTS), [name for name in RECIPES if name != "onnx"]]


def test_the_command_refuses_before_it_makes_a_folder(write, tmp_path):
    path = write("sizes = [8]\n")
    command = ["sweep", "--grid", str(path), "--data", "synthetic:16", "--out", str(tmp_path / "out")]
    script = "from edge_derm.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "line 1: sizes" in done.stderr
    assert not (tmp_path / "out").exists()

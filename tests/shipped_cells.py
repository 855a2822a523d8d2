"""``small_cells``, told where its data lie."""

from pathlib import Path

import small_cells


def perform(task):
    assert list(Path(task.data).rglob("*.bmp")), "the data did not arrive"
    return {**small_cells.perform(task), "seen": task.data}

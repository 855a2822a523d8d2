"""Labelled images: where they come from, how they are split, and the one way their pixels become a model's input."""

from edge_derm.data.dataset import Dataset, Problem, Sample
from edge_derm.data.layouts import open_dataset
from edge_derm.data.preprocess import PREPROCESSING, preprocess, read_image
from edge_derm.data.split import Split, split

__all__ = [
    "PREPROCESSING",
    "Dataset",
    "Problem",
    "Sample",
    "Split",
    "open_dataset",
    "preprocess",
    "read_image",
    "split",
]

"""The bundle: the one folder that crosses from training to everything else; its only reader and writer."""

from edge_derm.bundle.describe import describe_model
from edge_derm.bundle.manifest import (
    SCHEMA,
    Calibration,
    Dropout,
    FileEntry,
    Input,
    Manifest,
    Output,
    Provenance,
)
from edge_derm.bundle.metadata import Embedded, embed_metadata, read_metadata
from edge_derm.bundle.store import Bundle, open_bundle, update_bundle, write_bundle
from edge_derm.bundle.structure import check_model

__all__ = [
    "SCHEMA",
    "Bundle",
    "Calibration",
    "Dropout",
    "Embedded",
    "FileEntry",
    "Input",
    "Manifest",
    "Output",
    "Provenance",
    "check_model",
    "describe_model",
    "embed_metadata",
    "open_bundle",
    "read_metadata",
    "update_bundle",
    "write_bundle",
]

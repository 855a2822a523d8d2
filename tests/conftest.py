"""Tiny seeded models for every test: made once by TensorFlow in a child process, kept in pytest's cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Mapping

import numpy as np
import pytest

from edge_derm import files
from pictures import varied_images

HERE = Path(__file__).parent


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Where CI installs every tool, a skipped test is a failed one."""
    outcome = yield
    _refuse_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a file that skips itself."""
    outcome = yield
    _refuse_skip(outcome.get_result())


def _refuse_skip(report: Any) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped, but CI has every tool: {reason}"


LABELS = ("akiec", "bcc", "mel", "nv")


@pytest.fixture(scope="session")
def tiny_models(pytestconfig: pytest.Config) -> Mapping[str, bytes]:
    """``{recipe: .tflite bytes}`` of one 32 px, 4-class network: int8, uint8, int16, float32, float16."""
    script = HERE / "tiny_models.py"
    try:
        version = importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("TensorFlow is not installed: the tiny models of most tests cannot be made")
    sources = script.read_bytes() + (HERE / "pictures.py").read_bytes()
    key = hashlib.sha256(sources + version.encode()).hexdigest()[:16]
    folder = pytestconfig.cache.mkdir("tiny_models") / key
    if not folder.is_dir():
        with files.replace_folder(folder) as fresh:
            made = subprocess.run([sys.executable, str(script), str(fresh)], capture_output=True, text=True)
            assert made.returncode == 0, made.stderr[-2000:]
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.tflite"))}


@pytest.fixture(scope="session")
def tiny_int8(tiny_models: Mapping[str, bytes]) -> bytes:
    """int8 edges; a uint8 pixel p is stored as p − 128."""
    return tiny_models["int8"]


@pytest.fixture(scope="session")
def tiny_uint8(tiny_models: Mapping[str, bytes]) -> bytes:
    """uint8 edges, int8 inside; a pixel is stored as it is."""
    return tiny_models["uint8"]


@pytest.fixture(scope="session")
def tiny_float(tiny_models: Mapping[str, bytes]) -> bytes:
    """float32 throughout; a pixel p is p/128 − 1."""
    return tiny_models["float32"]


@pytest.fixture
def tiny_images() -> np.ndarray:
    """uint8 [12, 32, 32, 3]: ten blobs, a black and a white image."""
    flat = np.zeros((2, 32, 32, 3), np.uint8)
    flat[1] = 255
    return np.concatenate([varied_images(10), flat])


@pytest.fixture
def tiny_bundle(tmp_path: Path, tiny_int8: bytes, tiny_images: np.ndarray) -> Path:
    """A complete int8 bundle, metadata and golden vectors included, that the test may damage."""
    from edge_derm.bundle import embed_metadata, write_bundle
    from edge_derm.bundle.describe import describe_model
    from edge_derm.runtime import golden

    model = embed_metadata(tiny_int8, labels=LABELS)
    manifest = describe_model(model).updated(recipe="int8", variant="d1", alpha=0.25, dilation={"dw1": 2})
    parts = {"golden.npz": ("golden", golden.make(model, tiny_images[:4]))}
    return write_bundle(tmp_path / "tiny.bundle", manifest, model=model, parts=parts).path


@pytest.fixture(scope="session")
def tree() -> Path:
    """The arm64 tree, made by the product's own code where it is not in the cache yet."""
    from edge_derm.errors import TargetError
    from edge_derm.measure import arm64

    try:
        arm64.prepare()
    except TargetError as error:
        if error.code in ("arm64-tools", "debian-network", "wheels-network", "debian-tools"):
            pytest.skip(str(error))
        raise
    return arm64.folder()


@pytest.fixture(scope="session")
def chain_pixels() -> np.ndarray:
    """uint8 [64, 48, 48, 3]: what the network of ``chain_models`` has its statistics from."""
    from edge_derm.data import open_dataset

    return open_dataset("synthetic:64").images(48)


@pytest.fixture(scope="session")
def chain_model(chain_pixels: np.ndarray) -> Any:
    """The Keras network of ``chain_models``; no test changes it."""
    import chain_models

    return chain_models.build(chain_pixels)


@pytest.fixture(scope="session")
def chain(chain_model: Any) -> Any:
    """``chain_model``, folded."""
    from edge_derm.modeling.compression import chain as chains

    return chains.fold(chain_model)


@pytest.fixture(scope="module")
def hashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts a device whose output is a hash of its input; flags of the compiler may be given."""
    import hashing_device
    from firmware_bridge import board

    if board.missing_tools(board.find_board("host")):
        pytest.skip("no C compiler on this machine")
    with hashing_device.starting(tmp_path_factory.mktemp) as start:
        yield start

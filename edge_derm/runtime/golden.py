"""Golden vectors: a few inputs with the outputs of each kernel family, so that a board can test itself.

``golden.npz`` holds ``inputs`` (uint8 [N, S, S, 3]) and ``outputs_default``, ``outputs_reference`` ([N, C]
as the model's output tensor stores them).
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np

from edge_derm.bundle import Bundle
from edge_derm.errors import BundleError
from edge_derm.runtime.backends import KERNELS
from edge_derm.runtime.classifier import Classifier

NAME = "golden.npz"
ROLE = "golden"
_LIMIT = 256 * 1024 * 1024


@dataclass(frozen=True)
class Difference:
    """How far this machine is from the machine that made the golden vectors, on one kernel family.

    ``lsb`` counts steps of a quantised output, None for a float one; ``absolute`` is in the scores' own unit.
    """

    kernels: str
    lsb: int | None
    absolute: float
    decisions_changed: int


def make(model: bytes, inputs: np.ndarray, *, labels: Sequence[str] | None = None) -> bytes:
    """Golden vectors of ``model`` (.tflite bytes) as npz bytes.

    The same arguments give the same bytes on the same machine.

    Args:
        inputs: preprocessed images, uint8 [N, S, S, 3].

    Raises:
        BundleError, BackendError, DataError: as ``Classifier.of`` and ``Classifier.stored``.
    """
    arrays = {"inputs": np.ascontiguousarray(inputs)}
    for kernels in KERNELS:
        arrays[f"outputs_{kernels}"] = Classifier.of(model, labels, kernels=kernels).stored(inputs)
    return _pack(arrays)


def check(bundle: Bundle, *, backend: str = "litert", threads: int = 1) -> dict[str, Difference]:
    """Run the bundle's golden inputs here and compare, one ``Difference`` per kernel family.

    Raises:
        BundleError: ``golden-missing``, ``golden-broken``.
        BackendError: the engine is missing or refuses the model.
    """
    name = bundle.named(ROLE)
    if name is None:
        raise BundleError(f"{bundle.path}: holds no golden vectors: export it again", code="golden-missing")
    arrays = read(bundle.part(name))
    return {
        kernels: _compare(
            Classifier.open(bundle, backend=backend, kernels=kernels, threads=threads), kernels, arrays
        )
        for kernels in KERNELS
    }


def compare(bundle: Bundle, classifier: Classifier) -> dict[str, Difference]:
    """How far ``classifier`` (any backend) is from the bundle's golden outputs of each kernel family; see ``check``."""
    name = bundle.named(ROLE)
    if name is None:
        raise BundleError(f"{bundle.path}: holds no golden vectors: export it again", code="golden-missing")
    arrays = read(bundle.part(name))
    return {kernels: _compare(classifier, kernels, arrays) for kernels in KERNELS}


def read(data: bytes) -> Mapping[str, np.ndarray]:
    """The arrays of npz bytes made by ``make``.

    Raises:
        BundleError: ``golden-broken``: not such a file, or one that unpacks to over 256 MiB.
    """
    wanted = ["inputs", *(f"outputs_{kernels}" for kernels in KERNELS)]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LIMIT:
                raise ValueError("too large")
            arrays = {
                name: np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                for name in wanted
            }
    except (
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise BundleError(
            f"{NAME}: does not read ({type(error).__name__}): export the bundle again", code="golden-broken"
        ) from None
    if any(len(array) != len(arrays["inputs"]) for array in arrays.values() if array.ndim) or not len(
        arrays["inputs"]
    ):
        raise BundleError(
            f"{NAME}: expected as many outputs as inputs: export the bundle again", code="golden-broken"
        )
    return arrays


def _compare(classifier: Classifier, kernels: str, arrays: Mapping[str, np.ndarray]) -> Difference:
    expected, got = arrays[f"outputs_{kernels}"], classifier.stored(arrays["inputs"])
    if expected.shape != got.shape or expected.dtype != got.dtype:
        raise BundleError(
            f"{NAME}: expected outputs {got.dtype} {list(got.shape)}, got {expected.dtype} "
            f"{list(expected.shape)}: export the bundle again",
            code="golden-broken",
        )
    gap = np.abs(expected.astype(np.float64) - got.astype(np.float64)).max(initial=0.0)
    quantised = got.dtype.kind != "f"
    return Difference(
        kernels=kernels,
        lsb=int(gap) if quantised else None,
        absolute=float(gap * classifier.output_scale) if quantised else float(gap),
        decisions_changed=int((expected.argmax(axis=-1) != got.argmax(axis=-1)).sum()),
    )


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    # numpy.savez stamps members with the clock; a bundle made twice should be the same bytes.
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, member.getvalue(), compress_type=zipfile.ZIP_DEFLATED)
    return stream.getvalue()

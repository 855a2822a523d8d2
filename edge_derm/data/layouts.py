"""The three layouts a data set may have on disk (or in no file at all), and what is wrong with one.

A folder per class · ``images/`` + ``metadata.csv`` as HAM10000 and ISIC publish them · ``synthetic[:N]``. What cannot be
used is refused; what can be left out is left out and reported as a ``Problem``, never silently.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Iterable

from edge_derm.data import synthetic
from edge_derm.data.dataset import Dataset, Problem, Sample
from edge_derm.errors import DataError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
METADATA = "metadata.csv"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")


def open_dataset(spec: str | Path, *, seed: int = 0) -> Dataset:
    """Open labelled images.

    Args:
        spec: a folder with one sub-folder a class; a folder with ``images/`` and ``metadata.csv``; or
            ``synthetic``, ``synthetic:N`` for N drawn pictures.
        seed: of the synthetic pictures; files do not depend on it.

    Raises:
        DataError: ``data-missing``, ``data-not-a-folder``, ``data-empty``, ``data-one-class``, ``synthetic-count``,
            ``metadata-columns``, ``metadata-broken``, ``metadata-duplicate``.
    """
    if str(spec) == "synthetic" or str(spec).startswith("synthetic:"):
        return synthetic.open_synthetic(str(spec), seed=seed)
    root = Path(spec)
    if not root.exists():
        raise DataError(
            f"{root}: expected a folder of images, found nothing: check the path", code="data-missing"
        )
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, got a file", code="data-not-a-folder")
    read = _read_table if (root / METADATA).is_file() else _read_folders
    labels, samples, problems = read(root)
    if not samples:
        raise DataError(
            f"{root}: expected images in one folder a class, or images/ with {METADATA}; found no usable image"
            + (
                f" ({len(problems)} problems, first: {problems[0].kind} {problems[0].where})"
                if problems
                else ""
            ),
            code="data-empty",
        )
    if len(labels) < 2:
        raise DataError(
            f"{root}: expected at least two classes, got one ({labels[0]})", code="data-one-class"
        )
    return Dataset(
        root.name, str(spec), tuple(labels), tuple(samples), tuple(problems), _digest(labels, samples)
    )


def _read_folders(root: Path) -> tuple[list[str], list[Sample], list[Problem]]:
    found: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        images, bad = _images_in(folder, root)
        problems.extend(bad)
        if images:
            found[folder.name] = images
        else:
            problems.append(
                Problem("class-empty", folder.name, "no usable image in the folder: the class is left out")
            )
    for path in sorted(root.iterdir()):
        if path.suffix.lower() in EXTENSIONS:
            problems.append(
                Problem("image-without-class", path.name, "lies beside the class folders: left out")
            )
    labels = sorted(found)
    samples = []
    for label, name in enumerate(labels):
        for path in found[name]:
            image_id = path.relative_to(root).as_posix()
            samples.append(Sample(image_id, label, image_id, path))
    return labels, samples, problems


def _images_in(folder: Path, root: Path) -> tuple[list[Path], list[Problem]]:
    """Image files of one class, sub-folders included; broken ones as problems."""
    images, problems = [], []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        where = path.relative_to(root).as_posix()
        if path.suffix.lower() not in EXTENSIONS:
            problems.append(Problem("not-an-image", where, f"extension {path.suffix or '(none)'}: left out"))
        elif not _looks_like_image(path):
            problems.append(
                Problem("image-broken", where, "empty, unreadable or not an image inside: left out")
            )
        else:
            images.append(path)
    return images, problems


def _read_table(root: Path) -> tuple[list[str], list[Sample], list[Problem]]:
    rows = _read_rows(root / METADATA)
    folder = root / "images"
    files = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS}
    labels = sorted({row["dx"] for row in rows if row["dx"]})
    samples: list[Sample] = []
    problems: list[Problem] = []
    for row in rows:
        name, path = row["image_id"], files.get(row["image_id"])
        if not row["dx"]:
            problems.append(Problem("label-missing", name, "no dx in its row: left out"))
        elif path is None:
            problems.append(
                Problem("row-without-image", name, f"no image of that name in {folder.name}/: left out")
            )
        elif not _looks_like_image(path):
            problems.append(
                Problem("image-broken", path.name, "empty, unreadable or not an image inside: left out")
            )
        else:
            samples.append(_sample(row, labels.index(row["dx"]), path))
    known = {row["image_id"] for row in rows}
    problems.extend(
        Problem("image-without-row", path.name, f"not in {METADATA}: left out")
        for stem, path in files.items()
        if stem not in known
    )
    return _drop_empty_classes(labels, samples, problems)


def _sample(row: dict[str, str], label: int, path: Path) -> Sample:
    meta = {key: value for key, value in row.items() if key not in ("image_id", "dx") and value}
    group = row.get("patient_id") or row.get("lesion_id") or row["image_id"]
    return Sample(row["image_id"], label, group, path, meta)


def _drop_empty_classes(
    labels: list[str], samples: list[Sample], problems: list[Problem]
) -> tuple[list[str], list[Sample], list[Problem]]:
    used = sorted({labels[sample.label] for sample in samples})
    for name in sorted(set(labels) - set(used)):
        problems.append(Problem("class-empty", name, "no usable image: the class is left out"))
    moved = [Sample(s.image_id, used.index(labels[s.label]), s.group, s.path, s.meta) for s in samples]
    return used, moved, problems


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a UTF-8 CSV table, got {error}", code="metadata-broken") from error
    missing = {"image_id", "dx"} - set(columns)
    if missing:
        raise DataError(
            f"{path}: expected the columns image_id and dx, found {', '.join(columns) or 'none'}",
            code="metadata-columns",
        )
    _refuse_duplicates(path, [row["image_id"] for row in rows])
    return rows


def _refuse_duplicates(path: Path, names: Iterable[str]) -> None:
    seen: set[str] = set()
    twice = sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
    if twice:
        raise DataError(
            f"{path}: expected every image_id once, got {len(twice)} more than once ({', '.join(twice[:3])}): "
            "keep one row an image",
            code="metadata-duplicate",
        )


def _looks_like_image(path: Path) -> bool:
    """Whether the file starts like an image; whether it decodes whole is seen when it is read."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(_MAGIC)
    except OSError:
        return False


def _digest(labels: list[str], samples: list[Sample]) -> str:
    """SHA-256 over the sorted (content digest, label) pairs."""
    entries = []
    for sample in samples:
        assert sample.path is not None
        entries.append(
            f"{hashlib.sha256(sample.path.read_bytes()).hexdigest()} {labels[sample.label]} {sample.group}"
        )
    return hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()

"""How well the camera's gate tells spoilt frames from clear ones: each figure's ROC, and what its limit refuses.

    python benchmarks/camera_quality.py --data DIR [--count 400] [--foreign DIR] [--json FILE]

Clear frames are the pictures of the data set. Each is spoilt in every way at three severities; ``auroc`` is that of the
one figure which the check uses, ``caught`` the share of spoilt frames the gate refuses for any reason. ``--foreign``, pictures of
anything else, tells what the gate is not: it asks whether a picture is good enough, not whether it shows a lesion.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import click
import cv2
import numpy as np
from edge_derm import files
from edge_derm.camera.quality import Quality, assess
from edge_derm.data import open_dataset
from edge_derm.measure.environment import environment
from edge_derm.trust.roc import auroc

SIDE = 480


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Out of focus."""
    return cv2.GaussianBlur(x, (0, 0), sigma)


def gain(x: np.ndarray, factor: float) -> np.ndarray:
    """More or less light."""
    return np.clip(x * np.float32(factor), 0, 255).astype(np.uint8)


def glare(x: np.ndarray, radius: float) -> np.ndarray:
    """A burnt-out reflex beside the middle."""
    return cv2.circle(x.copy(), (SIDE // 2 + 40, SIDE // 2 - 40), int(radius), (255, 255, 255), -1)


def cast(x: np.ndarray, strength: float) -> np.ndarray:
    """A blue-green light source (RGB)."""
    return np.clip(x * np.float32([1 - strength, 1, 1 + strength]), 0, 255).astype(np.uint8)


def away(x: np.ndarray, _: float) -> np.ndarray:
    """Skin from the picture's corner, without the lesion."""
    corner = x[: SIDE // 8, : SIDE // 8]
    return cv2.resize(corner, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def shift(x: np.ndarray, share: float) -> np.ndarray:
    """The lesion moved towards the right edge, skin continued on the left."""
    moved = cv2.warpAffine(
        x, np.float32([[1, 0, SIDE * share], [0, 1, 0]]), (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE
    )
    return moved


SPOILT: Mapping[
    str, tuple[Callable[[np.ndarray, float], np.ndarray], tuple[float, ...], Callable[[Quality], float]]
] = {
    "dark": (gain, (0.5, 0.3, 0.15), lambda q: -q.light),
    "bright": (gain, (1.6, 2.2, 3.0), lambda q: q.light),
    "glare": (glare, (20, 40, 80), lambda q: q.glare),
    "cast": (cast, (0.2, 0.35, 0.5), lambda q: -q.red),
    "blurred": (blur, (3, 5, 9), lambda q: -q.focus),
    "absent": (away, (1,), lambda q: -q.contrast),
    "off-centre": (shift, (0.25, 0.35, 0.45), lambda q: q.offset),
}


def measure(pictures: list[np.ndarray]) -> dict[str, Any]:
    """The record's figures from RGB pictures of SIDE × SIDE."""
    check = partial(assess, order="rgb")
    clear = [check(picture) for picture in pictures]
    rows = [row for name in SPOILT for row in _rows(name, pictures, clear, check)]
    refused = {name: sum(q.problem == name for q in clear) for name in {q.problem for q in clear} - {None}}
    return {"clear": len(clear), "refused_clear": refused, "rows": rows}


def _rows(
    name: str, pictures: list[np.ndarray], clear: list[Quality], check: Callable[[np.ndarray], Quality]
) -> Iterator[dict[str, Any]]:
    spoil, severities, figure = SPOILT[name]
    for severity in severities:
        bad = [check(spoil(picture, severity)) for picture in pictures]
        scores = np.array([figure(q) for q in (*bad, *clear)])
        truth = np.repeat([1, 0], [len(bad), len(clear)]).astype(bool)
        yield {
            "check": name,
            "severity": severity,
            "auroc": round(auroc(scores, truth)["value"], 4),
            "caught": round(float(np.mean([q.problem is not None for q in bad])), 4),
            "named_right": round(float(np.mean([q.problem == name for q in bad])), 4),
        }


def refused(pictures: list[np.ndarray]) -> dict[str, Any]:
    """What the gate says of pictures that show no lesion."""
    found = [assess(picture, order="rgb").problem for picture in pictures]
    names = {name: found.count(name) / len(found) for name in dict.fromkeys(found) if name}
    return {"pictures": len(found), "refused": sum(names.values()), "refused_for": names}


def squares(data: str, count: int) -> tuple[str, list[np.ndarray]]:
    """Digest of a data set and ``count`` of its pictures, seed 0, RGB of SIDE × SIDE."""
    opened = open_dataset(data)
    chosen = np.random.default_rng(0).permutation(len(opened))[:count]
    return opened.digest, [_square(opened.read(int(i))) for i in chosen]


@click.command(help=__doc__)
@click.option("--data", default="synthetic:400", show_default=True)
@click.option("--count", default=400, show_default=True, help="Pictures drawn from the data set, seed 0.")
@click.option("--foreign", help="Pictures of anything but lesions.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(data: str, count: int, foreign: str | None, json_file: Path | None) -> None:
    digest, pictures = squares(data, count)
    record = {"record": "camera-quality", "data": Path(data).name, "data_digest": digest}
    record |= measure(pictures) | {"foreign": None, "environment": environment()}
    if foreign:
        digest, pictures = squares(foreign, count)
        record["foreign"] = {"data": Path(foreign).name, "data_digest": digest, **refused(pictures)}
    print(f"{record['clear']} clear pictures, refused: {record['refused_clear']}")
    for row in record["rows"]:
        print(
            f"  {row['check']:11} {row['severity']:5}  AUROC {row['auroc']:.3f}  caught {row['caught']:6.1%}  "
            f"named right {row['named_right']:6.1%}"
        )
    if record["foreign"]:
        named = ", ".join(f"{name} {share:.1%}" for name, share in record["foreign"]["refused_for"].items())
        print(
            f"{record['foreign']['pictures']} foreign pictures, refused {record['foreign']['refused']:.1%}: {named}"
        )
    if json_file:
        files.write_json(json_file, record)


def _square(image: np.ndarray) -> np.ndarray:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return cv2.resize(
        image[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
    )


if __name__ == "__main__":
    main()

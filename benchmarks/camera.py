"""Frames a second of the camera loop against a naive loop that does the same work in one thread; interleaved, one run.

    python benchmarks/camera.py --bundle B [--rounds 7] [--frames 400] [--json FILE]

All read the same 640×480 MJPEG file, pass the same gate, infer with the same bundle and encode JPEG at quality 80 for one
viewer who reads as fast as it can:

* ``naive``: read, gate, preprocess, infer, encode, send; one after the other, every frame encoded.
* ``loop``: ``edge-derm camera --view web`` as it is (the page encodes at most 30 pictures a second).
* ``loop_every``: the same, its encoder free to encode every frame it can get.

``--soak MIN`` runs ``loop`` alone for that long instead and prints the slope of the process tree's memory.
"""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import click
import cv2
import numpy as np
from edge_derm import files
from edge_derm.bundle import open_bundle
from edge_derm.camera import scenes
from edge_derm.camera.quality import assess
from edge_derm.camera.show import show
from edge_derm.data import preprocess
from edge_derm.measure.environment import environment
from edge_derm.runtime import Classifier

VIEW_FPS = {"loop": 30.0, "loop_every": 1000.0}


def film(path: Path, frames: int) -> None:
    """A 640×480 MJPEG file of sharp synthetic frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (640, 480))
    for number in range(frames):
        writer.write(scenes.frame(number, scene="sharp"))
    writer.release()


def naive(bundle: Path, source: Path) -> dict[str, float]:
    """The obvious loop."""
    classifier = Classifier.open(open_bundle(bundle))
    classifier.predict(np.zeros((classifier.size_px, classifier.size_px, 3), np.uint8))
    ours, theirs = socket.socketpair()
    reader = threading.Thread(target=lambda: all(iter(lambda: theirs.recv(1 << 20), b"")))
    reader.start()
    capture, totals, begun = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG), [], time.perf_counter()
    while True:
        got, pixels = capture.read()
        if not got:
            break
        taken = time.perf_counter()
        if assess(pixels).problem is None:
            shown = preprocess(pixels, classifier.size_px, order="bgr")
            classifier.decide(classifier.predict(shown))
        totals.append((time.perf_counter() - taken) * 1e3)
        ours.sendall(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
    spent = time.perf_counter() - begun
    ours.close()
    reader.join()
    theirs.close()
    return {"fps": len(totals) / spent, "total_p95_ms": float(np.percentile(totals, 95))}


def loop(
    bundle: Path, source: Path, *, view_fps: float, repeat_frames: int | None = None
) -> dict[str, float]:
    """The product's loop with one viewer."""
    viewers: list[threading.Thread] = []

    def watch(line: str) -> None:
        port = int(line.rsplit(":", 1)[1].strip("/"))
        viewers.append(threading.Thread(target=_watch, args=(port,), daemon=True))
        viewers[-1].start()

    record = show(
        bundle,
        source=str(source),
        view="web",
        port=0,
        view_fps=view_fps,
        say=watch,
        repeat=repeat_frames is not None,
        frames=repeat_frames,
    )
    viewers[0].join(10)
    total = record["latency_ms"]["total"]
    kept = ("frames", "fps", "dropped", "unanswered", "broken", "restarts")
    return {"total_p95_ms": total["p95"], **{key: record[key] for key in kept}}


def _watch(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/video.mjpg", headers={"Host": "localhost"})
        response = connection.getresponse()
        while response.read1(1 << 20):
            pass
    except OSError:
        pass
    finally:
        connection.close()


def compare(bundle: Path, *, rounds: int, frames: int) -> dict[str, Any]:
    """All ways, ``rounds`` times in turn."""
    found: dict[str, list[dict[str, float]]] = {"naive": [], **{name: [] for name in VIEW_FPS}}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "film.avi"
        film(source, frames)
        for number in range(rounds):
            found["naive"].append(naive(bundle, source))
            for name, view_fps in VIEW_FPS.items():
                found[name].append(loop(bundle, source, view_fps=view_fps))
            print(
                f"round {number + 1}: "
                + ", ".join(f"{name} {runs[-1]['fps']:.0f}" for name, runs in found.items())
            )
    ratios = {
        name: [run["fps"] / base["fps"] for run, base in zip(found[name], found["naive"])]
        for name in VIEW_FPS
    }
    return {
        "rows": {name: _summary(runs) for name, runs in found.items()},
        "ratio_to_naive": {name: {"median": float(np.median(r)), "all": r} for name, r in ratios.items()},
    }


def _summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    return {
        key: {"median": float(np.median([run[key] for run in runs])), "all": [run[key] for run in runs]}
        for key in runs[0]
    }


def soak(bundle: Path, minutes: float) -> dict[str, Any]:
    """Memory of the process tree every 5 s while the loop plays a film over and over."""
    samples: list[tuple[float, int]] = []
    done = threading.Event()

    def sample() -> None:
        begun = time.monotonic()
        while not done.wait(5.0):
            samples.append((time.monotonic() - begun, sum(_own_memory(pid) for pid in _tree(os.getpid()))))
            if samples[-1][0] > minutes * 60:
                os.kill(os.getpid(), 2)
                return

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "film.avi"
        film(source, 300)
        threading.Thread(target=sample, daemon=True).start()
        result = loop(bundle, source, view_fps=30.0, repeat_frames=10**9)
        done.set()
    settled = np.array([entry for entry in samples if entry[0] > 0.1 * samples[-1][0]])
    slope = float(np.polyfit(settled[:, 0] / 60, settled[:, 1] / 1024, 1)[0])
    return {
        **result,
        "minutes": minutes,
        "slope_kib_per_minute": slope,
        "kib": [int(b / 1024) for _, b in samples],
    }


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it ended meanwhile: a worker that was replaced
        return
    for child in children:
        yield from _tree(int(child))


def _own_memory(pid: int) -> int:
    # Anonymous pages only: shared files are counted by how many others map them too, which is not ours to keep flat.
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss_Anon:"))


@click.command(help=__doc__)
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--frames", default=400, show_default=True)
@click.option("--soak", "soak_min", type=float, metavar="MIN")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(bundle: Path, rounds: int, frames: int, soak_min: float | None, json_file: Path | None) -> None:
    record: dict[str, Any] = {"record": "camera-benchmark", "environment": environment()}
    if soak_min:
        record["soak"] = soak(bundle, soak_min)
        print(
            f"{record['soak']['fps']:.0f} fps, memory slope {record['soak']['slope_kib_per_minute']:+.1f} KiB a minute"
        )
    else:
        record |= compare(bundle, rounds=rounds, frames=frames)
        for name, row in record["rows"].items():
            ratio = record["ratio_to_naive"].get(name, {"median": 1.0})["median"]
            fps, p95 = row["fps"]["median"], row["total_p95_ms"]["median"]
            print(f"{name:11} {fps:6.1f} fps ({ratio:.2f} of naive), total p95 {p95:.2f} ms")
    if json_file:
        files.write_json(json_file, record)


if __name__ == "__main__":
    main()

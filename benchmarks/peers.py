"""The same int8 and float models through this runtime and its peers, in one run, in turn.

    python benchmarks/peers.py --run RUN --json benchmarks/results/peers.json

(or ``--int8 BUNDLE --onnx BUNDLE``, made before). Without either a small d1 is trained on the built-in pictures. The int8 model
has uint8 edges, which every peer that runs int8 accepts. Every peer, ours too, is a process of its own (``peer.py``; MediaPipe and
tflite-runtime in cached environments of their own, made at need). A round asks each for a few warm calls and ten timed ones, the
order turning from round to round; one thread each. ``invoke``: from pixels at the model's size to scores. ``frame``: from a
640×480 BGR frame to probabilities, every peer but MediaPipe on the product's own pixels (``pixels``: our preprocessing alone, with
nothing between its calls). Ratios are ours over the peer's: medians of a round, the median over rounds, a bootstrap 95 % interval
over rounds. Below 1 ours is faster.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator, Mapping

import click
import numpy as np

from edge_derm import files, inspecting, making
from edge_derm.cli.options import clean
from edge_derm.errors import TargetError
from edge_derm.measure import elsewhere
from edge_derm.measure.benchmark import bootstrap
from edge_derm.measure.environment import environment

HERE = Path(__file__).resolve().parent
RECIPES = {
    "int8": ("edge_derm", "litert", "litert-benchmark", "tflite-runtime", "mediapipe"),
    "float32": (
        "edge_derm",
        "edge_derm onnxruntime",
        "edge_derm opencv",
        "litert",
        "litert-benchmark",
        "tflite-runtime",
        "onnxruntime",
        "opencv",
        "mediapipe",
    ),
}
NOT_INT8 = {
    "onnxruntime": "runs the float ONNX file; what it would make of the int8 .tflite is another model",
    "opencv": "OpenCV 5 does not load int8 .tflite",
}
OURS = {"onnxruntime": "edge_derm onnxruntime", "opencv": "edge_derm opencv"}  # else edge_derm
WARM, RUNS = 3, 10


class Peer:
    """A running worker."""

    def __init__(self, name: str, model: Path, frame: Path, size_px: int) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()
        self.hello: dict[str, Any]
        try:
            own = name in elsewhere.ENVIRONMENTS
            python = elsewhere.make_python(name) if own else Path(sys.executable)
        except TargetError as error:
            self.hello = {"missing": str(error)}
            return
        self._process = subprocess.Popen(
            [str(python), str(HERE / "peer.py"), name, str(model), str(frame), str(size_px)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=elsewhere.clean_environment(HERE.parent),
        )
        self.hello = self._answer()

    @property
    def runs(self) -> bool:
        return "missing" not in self.hello

    def time(self, stage: str) -> list[float]:
        """Ten durations in ms."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"stage": stage, "warm": WARM, "runs": RUNS}) + "\n")
        self._process.stdin.flush()
        return [value / 1e6 for value in self._answer()["ns"]]

    def close(self) -> None:
        if hasattr(self, "_process"):
            self._process.communicate(timeout=60)
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        return {"missing": f"it ended: {' '.join(last) or 'no message'}"[:300]}


def measure(
    recipe: str, models: Mapping[str, Path], frame: Path, size_px: int, *, rounds: int
) -> dict[str, Any]:
    """All peers of one recipe."""
    names = RECIPES[recipe]
    peers = [Peer(name, model_of(name, models), frame, size_px) for name in names]
    try:
        running = [peer for peer in peers if peer.runs]
        if not {"edge_derm", "litert"} <= {peer.name for peer in running}:
            said = [f"{peer.name}: {peer.hello['missing']}" for peer in peers if not peer.runs]
            raise click.ClickException(
                f"{recipe}: {'; '.join(said)} (int8 bundles are exported with --io uint8)"
            )
        taken = {
            (peer.name, stage): np.empty((rounds, RUNS)) for peer in running for stage in peer.hello["stages"]
        }
        for i, peer in turns(running, rounds):
            for stage in peer.hello["stages"]:
                taken[peer.name, stage][i] = peer.time(stage)
    finally:
        for peer in peers:
            peer.close()
    rows = [row(peer, peers, taken) for peer in peers]
    if recipe == "int8":
        rows += [{"peer": name, "missing": reason} for name, reason in NOT_INT8.items()]
    return {"recipe": recipe, "rounds": rounds, "runs_a_round": RUNS, "rows": rows}


def turns(peers: list[Peer], rounds: int) -> Iterator[tuple[int, Peer]]:
    """Every peer in every round, each round starting with the next."""
    for i in range(rounds):
        for k in range(len(peers)):
            yield i, peers[(i + k) % len(peers)]


def model_of(name: str, models: Mapping[str, Path]) -> Path:
    """The file or bundle that a peer takes."""
    if name.startswith("edge_derm "):
        return models["bundle"]
    return models["onnx" if name in ("onnxruntime", "opencv") else "tflite"]


def row(peer: Peer, peers: list[Peer], taken: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    """Figures of one peer, and ours against it."""
    if not peer.runs:
        return {"peer": peer.name, "missing": peer.hello["missing"]}
    reference = next(other for other in peers if other.name == "litert")
    ours = OURS.get(peer.name, "edge_derm")
    figures: dict[str, Any] = {"peer": peer.name, "missing": None, "version": peer.hello["version"]}
    for stage in peer.hello["stages"]:
        own = taken[peer.name, stage]
        figures[f"{stage}_ms"] = {
            "p50": float(np.median(own)),
            "p95": float(np.percentile(own, 95)),
            "samples": own.round(5).tolist(),
        }
    for stage in ("invoke", "frame"):
        pairs = np.stack([np.median(taken[name, stage], axis=1) for name in (ours, peer.name)], axis=1)
        figures[f"{stage}_ratio"] = {"ours": ours, **interval(pairs, lambda p: np.median(p[:, 0] / p[:, 1]))}
        gap = interval(pairs, lambda p: np.median(p[:, 0] - p[:, 1]) * 1e3)
        figures[f"{stage}_difference_us"] = gap
        figures[f"{stage}_scores_apart"] = apart(peer, reference, stage)
    if "bare" in peer.hello["stages"]:
        pairs = np.stack(
            [np.median(taken[key], axis=1) for key in ((ours, "invoke"), (peer.name, "bare"))], axis=1
        )
        figures["predict_over_bare_invoke"] = interval(pairs, lambda p: np.median(p[:, 0] / p[:, 1]))
        figures["predict_over_bare_invoke_us"] = interval(pairs, lambda p: np.median(p[:, 0] - p[:, 1]) * 1e3)
    return figures


def interval(pairs: np.ndarray, statistic: Any) -> dict[str, float]:
    """A statistic of the rounds with its interval."""
    low, high = bootstrap(pairs, statistic)
    return {"value": float(statistic(pairs)), "low": low, "high": high}


def apart(peer: Peer, reference: Peer, stage: str) -> float | None:
    """The largest difference in a probability from raw LiteRT; frames differ for MediaPipe, whose pixels are its own."""
    theirs, base = (np.array(p.hello["scores"][stage]) for p in (peer, reference))
    if theirs.max() > 1 or base.max() > 1:  # raw scores of an int8 output, in steps of 1/256
        theirs, base = (scores / 256 if scores.max() > 1 else scores for scores in (theirs, base))
    return float(np.abs(theirs - base).max())


def export_both(run: Path | None, folder: Path) -> tuple[Path, Path]:
    """The int8 bundle with uint8 edges and the ONNX bundle of one run."""
    if run is None:
        run = folder / "run"
        making.train("synthetic:600", run, variant="d1", size_px=128, epochs=4)
    int8, onnx = folder / "int8.bundle", folder / "onnx.bundle"
    making.export(run, int8, recipe="int8", io="uint8")
    making.export(run, onnx, recipe="onnx")
    return int8, onnx


def models_of(int8: Path, onnx: Path) -> tuple[dict[str, dict[str, Path]], int, dict[str, Any]]:
    """The files that the peers take, the side of the image, and what the models are."""
    record = inspecting.inspect(int8)
    size_px = record["manifest"]["input"]["size_px"]
    about = {key: record["manifest"][key] for key in ("variant", "alpha")}
    about |= {"size_px": size_px, "macs": record["macs"], "int8_bytes": record["size_bytes"]}
    about["data_digest"] = (record["manifest"]["provenance"] or {}).get(
        "data_digest"
    )  # of what it was trained on
    return (
        {
            "int8": {"bundle": int8, "tflite": int8 / "model.tflite"},
            "float32": {"bundle": onnx, "tflite": onnx / "model.tflite", "onnx": onnx / "model.onnx"},
        },
        size_px,
        about,
    )


def save_frame(folder: Path) -> Path:
    """A picture of the built-in generator as a 640×480 BGR frame."""
    import cv2

    picture = making.sample_pixels(480)[0][..., ::-1]
    np.save(folder / "frame.npy", np.ascontiguousarray(cv2.resize(picture, (640, 480))))
    return folder / "frame.npy"


def text(figures: dict[str, Any]) -> str:
    """One line."""
    if figures["missing"]:
        return f"  {figures['peer']:22} not run: {figures['missing']}"
    invoke, frame = figures["invoke_ratio"], figures["frame_ratio"]
    pixels = f"; preprocessing {figures['pixels_ms']['p50']:.3f} ms" if "pixels_ms" in figures else ""
    return (
        f"  {figures['peer']:22} invoke {figures['invoke_ms']['p50']:.3f} ms, ours/peer {invoke['value']:.3f} ({invoke['low']:.3f}–"
        f"{invoke['high']:.3f}); frame {figures['frame_ms']['p50']:.3f} ms, ours/peer {frame['value']:.3f} ({frame['low']:.3f}–"
        f"{frame['high']:.3f}); scores apart {figures['invoke_scores_apart']:.2g}{pixels}"
    )


@click.command()
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A trained run.")
@click.option(
    "--int8", type=click.Path(path_type=Path, exists=True), help="An int8 bundle with uint8 edges, and …"
)
@click.option(
    "--onnx", type=click.Path(path_type=Path, exists=True), help="… one exported with --recipe onnx, instead."
)
@click.option("--rounds", type=click.IntRange(5), default=60, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record here.")
def main(run: Path | None, int8: Path | None, onnx: Path | None, rounds: int, json_file: Path | None) -> None:
    """Print the comparison; see the module's docstring."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if int8 is None or onnx is None:
            int8, onnx = export_both(run, folder)
        models, size_px, about = models_of(int8, onnx)
        frame = save_frame(folder)
        parts = [measure(recipe, models[recipe], frame, size_px, rounds=rounds) for recipe in RECIPES]
    result = {
        "record": "peers",
        "model": about,
        "threads": 1,
        "recipes": parts,
        "environment": environment(command="benchmarks/peers.py --int8 INT8.bundle --onnx ONNX.bundle"),
    }
    for part in parts:
        click.echo(f"{part['recipe']}:")
        for figures in part["rows"]:
            click.echo(text(figures))
    if json_file:
        files.write_json(json_file, clean(result))


if __name__ == "__main__":
    sys.exit(main())

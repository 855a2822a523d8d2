"""``bench``: latency and memory of a bundle or a bare .tflite on a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import steps
from . import options as shared


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="BUNDLE|FILE.tflite")
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="Measure both, interleaved, in this one run.",
)
@click.option("--target", default="local", show_default=True, help="Where to run.")
@click.option(
    "--runs", type=click.IntRange(50), default=200, show_default=True, help="Samples after warm-up."
)
@shared.backend_option
@shared.threads_option
@shared.json_option
def bench(model: Path, json_file: str | None, **choices: Any) -> None:
    """Latency, memory and operators.

    \b
    Example:  edge-derm bench d1.bundle --runs 500
    """
    record = steps.bench(model, **choices)
    shared.emit(record, json_file, text(record))


def text(record: dict[str, Any]) -> str:
    """The record in a few lines."""
    latency, memory = record["latency_ms"], record["memory"]
    lines = [
        f"{record['target']}: p50 {latency['p50']:.3f} ms, p95 {latency['p95']:.3f} ms, mean {latency['mean']:.3f} ms "
        f"({latency['ci95'][0]:.3f} to {latency['ci95'][1]:.3f}), {len(latency['samples'])} samples",
        f"  model {memory['model_bytes']:,} bytes, peak memory {memory['peak_rss_bytes'] / 2**20:.1f} MiB above the bare process",
    ]
    if record.get("ratio"):
        ratio = record["ratio"]
        lines.append(
            f"  against the other: {record['verdict']}, ratio {ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        )
    return "\n".join(lines)

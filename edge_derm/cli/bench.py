"""``bench``: latency and memory of a bundle or a bare .tflite on a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import using
from . import options as shared

PROFILE_LINES = 12


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="BUNDLE|FILE.tflite")
@shared.path_option("--compare", "OTHER", "Measure both, interleaved, in this one run.")
@click.option("--target", default="local", show_default=True, help="Where to run.")
@shared.setting("--runs", click.IntRange(50), 200, "Samples after warm-up.")
@click.option("--profile", is_flag=True, help="Also the cost of each operator (timed sub-graphs).")
@click.option(
    "--soak",
    "soak_min",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MIN",
    help="Also run this many minutes without a pause: drift, temperature, throttling.",
)
@click.option(
    "--count-instructions",
    is_flag=True,
    help="On board:…: one core whose clock counts (the others always count or cannot).",
)
@shared.backend_option
@shared.threads_option
@shared.json_option
def bench(model: Path, json_file: str | None, **choices: Any) -> None:
    """Latency, memory and operators.

    \b
    Example:  edge-derm bench d1.bundle --runs 500
    """
    record = using.bench(model, **choices)
    shared.emit(record, json_file, text(record))


def text(record: dict[str, Any]) -> str:
    """The record in a few lines; what the target cannot know is left out, with its reason where it matters."""
    lines = [f"{record['target']}: {speed(record)}", f"  {memory(record['memory'])}"]
    ratio = record.get("ratio")
    if ratio:
        what = "instructions" if record["ratio_of"] == "instructions" else "time"
        lines.append(
            f"  against the other: {record['verdict']}, ratio of {what} {ratio['value']:.3f} "
            f"({ratio['low']:.3f} to {ratio['high']:.3f})"
        )
    elif record.get("other"):
        lines.append(f"  against the other: not compared: {record['instructions_reason']}")
    if "backend_there" in (record.get("parity") or {}):
        lines.append(f"  {agreement(record['parity'])}")
    lines += profile(record["profile"]) if record.get("profile") else []
    lines += [f"  {soak(record['soak'])}"] if record.get("soak") else []
    return "\n".join(lines)


def agreement(found: dict[str, Any]) -> str:
    """How far the emulated outputs are from this machine's, a kernel family at a time."""
    if "values" in found:
        return f"{found['different']} of {found['values']:,} values differ from {found['reference']}"
    rows = [
        f"{kernels} kernels {found[kernels]['max_difference']:g} {found[kernels]['unit']}, "
        f"{found[kernels]['decisions_changed']} of {found[kernels]['images']} decisions changed"
        for kernels in ("default", "reference")
    ]
    return (
        f"against this machine ({found['backend_here']}; there {found['backend_there']}): {'; '.join(rows)}"
    )


def profile(found: dict[str, Any]) -> list[str]:
    """The dearest operators first."""
    if any("instructions" in row for row in found["operators"]):
        return counted(found)
    dearest = sorted(found["operators"], key=lambda row: -row["cost_ms"]["value"])
    lines = [f"  {found['method']}; the whole {found['whole_ms']:.3f} ms"]
    for row in dearest[:PROFILE_LINES]:
        shape = "×".join(map(str, row["output_shape"]))
        lines.append(
            f"  {row['index']:4} {row['name']:22} {shape:14} {cost(row)}, {row['macs'] / 1e6:.2f} M MACs"
        )
    return lines + (
        [f"       … and {len(dearest) - PROFILE_LINES} more (--json has all)"]
        if len(dearest) > PROFILE_LINES
        else []
    )


def cost(row: dict[str, Any]) -> str:
    """An operator's cost, if its interval leaves zero out."""
    found = {key: 1000 * value for key, value in row["cost_ms"].items()}
    if found["low"] <= 0:
        return f"not measurable (below {max(found['high'], 0):.1f} µs)"
    share = f"{100 * row['share']:4.1f} %" if row["share"] is not None else "–"
    return f"{found['value']:8.1f} µs ({found['low']:.1f} to {found['high']:.1f}), {share}"


def counted(found: dict[str, Any]) -> list[str]:
    """The same where instructions were counted, not time."""
    dearest = sorted(found["operators"], key=lambda row: -row["instructions"])
    return [f"  {found['method']}"] + [
        f"  {row['index']:4} {row['name']:22} {'×'.join(map(str, row['shape'])):14} {row['instructions']:12,}"
        for row in dearest[:PROFILE_LINES]
    ]


def soak(found: dict[str, Any]) -> str:
    """One line."""
    drift, warm = found["drift"], found["temperature_c"]
    flags = {None: "throttling not told here", True: "THROTTLED", False: "never throttled"}
    return (
        f"soak: {found['minutes']:.1f} min, {found['runs']:,} runs, {found['verdict']}: last quarter over first "
        f"{drift['value']:.3f} ({drift['low']:.3f} to {drift['high']:.3f}); {flags[found['throttled']]}; "
        + (
            "temperature not told here"
            if warm is None
            else f"{warm['first']:.0f} to {warm['highest']:.0f} °C"
        )
    )


def speed(record: dict[str, Any]) -> str:
    """Latency, or instructions where there is no time to speak of."""
    latency = record["latency_ms"]
    if latency is not None:
        return (
            f"p50 {latency['p50']:.3f} ms, p95 {latency['p95']:.3f} ms, mean {latency['mean']:.3f} ms "
            f"(median within {latency['ci95'][0]:.3f} to {latency['ci95'][1]:.3f}), {len(latency['samples'])} samples"
            + (f"; {latency['warning']}" if latency["warning"] else "")
        )
    if record["instructions"] is None:
        return (
            f"no latency ({record['latency_ms_reason']}); no instructions ({record['instructions_reason']})"
        )
    return f"{record['instructions']:,} instructions an inference; no latency ({record['latency_ms_reason']})"


def memory(found: dict[str, Any]) -> str:
    """Bytes of the model, and of what it needs beside."""
    arena, peak = found["arena_bytes"], found["peak_rss_bytes"]
    parts = [f"model {found['model_bytes']:,} bytes"]
    if arena is not None:
        parts.append(f"arena {arena:,} bytes")
    if peak is not None:
        parts.append(f"peak memory {peak / 2**20:.1f} MiB above the bare process")
    return ", ".join(parts)

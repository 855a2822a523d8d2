"""One section a kind of record; the keys are those of the commands' JSON."""

from __future__ import annotations

from html import escape
from typing import Any, Callable, Mapping, Sequence

from edge_derm.report import audits, charts, evaluation, measuring, plane, smaller, sweeps, trust
from edge_derm.report.card import card
from edge_derm.report.markup import facts, interval, pair, section, table, text, tiles

Record = Mapping[str, Any]


def busy(profile: Record | None) -> dict[str, str]:
    """How well a training used its machine, where its record tells."""
    if profile is None:
        return {}
    share = profile["waiting"] / profile["seconds"]
    return {
        "processor cores kept busy": f"{profile['busy']:.1f} of {profile['cores']}",
        "waiting for images": f"{share:.0%}",
    }


def training(record: Record) -> str:
    """What was trained, on what, and how it went."""
    best, data, history = record["validation"], record["data"], record["history"]
    epochs = [row["epoch"] for row in history]
    top = tiles(
        {
            "validation accuracy": f"{best['accuracy']:.3f}",
            "balanced accuracy": f"{best['balanced_accuracy']:.3f}",
            "parameters": text(record["parameters"]),
            "M MACs an image": f"{record['macs'] / 1e6:.1f}",
            "epochs": str(len(epochs)),
            "minutes": f"{record['seconds'] / 60:.1f}",
            **busy(record.get("profile")),
        }
    )
    curves = charts.lines(
        {
            "accuracy": (epochs, [row["validation_accuracy"] for row in history]),
            "balanced accuracy": (epochs, [row["validation_balanced_accuracy"] for row in history]),
        },
        title="Validation accuracy by epoch",
        x_label="epoch",
        y_label="validation",
    )
    losses = charts.lines(
        {
            "training loss": (epochs, [row["loss"] for row in history]),
            "validation loss": (epochs, [row["validation_loss"] for row in history]),
        },
        title="Loss by epoch",
        x_label="epoch",
        y_label="loss (nats)",
    )
    images = table(
        "Images",
        ["class", "images", "AUROC"],
        [(text(name), text(count), text(best["auroc"].get(name))) for name, count in data["counts"].items()],
    )
    about = facts(
        "Run",
        {
            "variant": record["variant"],
            "dilation": record["dilation"] or "none",
            "alpha": record["alpha"],
            "input": f"{record['size_px']} px",
            "data": data["name"],
            "parts": data["parts"],
            "seed": record["seed"],
            "versions": record["versions"],
            "problems in the data": data["problems"],
        },
    )
    return section(f"Trained: {record['variant']}", top, pair(curves, losses), pair(images, about))


def model(record: Record) -> str:
    """What is in the deployed file."""
    top = tiles(
        {
            "bytes": text(record["size_bytes"]),
            "M MACs": f"{record['macs'] / 1e6:.2f}",
            "parameters": text(record["parameters"]),
            "operators": text(sum(record["operators"].values())),
            "dilated depthwise": text(record.get("dilated_depthwise")),
        }
    )
    operators = table(
        "Operators", ["operator", "count"], [(text(k), text(v)) for k, v in record["operators"].items()]
    )
    edges = table(
        "Inputs and outputs",
        ["tensor", "type", "shape", "scale", "zero point"],
        [
            (
                text(t["name"]),
                text(t["dtype"]),
                "×".join(map(str, t["shape"])),
                text(t["scale"]),
                text(t["zero_point"]),
            )
            for t in (*record["inputs"], *record["outputs"])
        ],
    )
    warned = "".join(
        f"<li>{escape(str(w['message'] if isinstance(w, Mapping) else w))}</li>" for w in record["warnings"]
    )
    notes = f"<h3>Warnings</h3><ul>{warned}</ul>" if warned else '<p class="soft">No warnings.</p>'
    return card(record) + section(
        f"Deployed file: {record.get('recipe') or record.get('arithmetic', '')}",
        top,
        pair(operators, edges + notes),
        smaller.roundings(_sensitivity(record)),
    )


def _sensitivity(record: Record) -> Sequence[Record]:
    metrics = (record.get("manifest") or {}).get("metrics") or {}
    return metrics.get("sensitivity") or ()


def parity(record: Record) -> str:
    """Float against deployed."""
    shares = record.get("agreement_intervals") or {}
    top = tiles(
        {
            "accuracy, float": text(record["accuracy_float"]),
            "accuracy, deployed": text(record["accuracy_deployed"]),
            "agreement, XNNPACK": text(record["agreement"]["xnnpack"]),
            "agreement, reference kernels": text(record["agreement"]["reference"]),
            "largest probability error": text(record["max_abs_probability_error"]),
        }
    )
    rows = [
        (name, interval(shares.get(key)))
        for name, key in (
            ("XNNPACK (Linux boards)", "xnnpack"),
            ("reference kernels (microcontrollers)", "reference"),
        )
    ]
    rows.append(("accuracy difference, deployed − float", interval(record.get("accuracy_difference"))))
    note = (
        f'<p class="soft">{text(record["images"])} images ({escape(str(record["part"]))}). The same int8 file is two '
        "classifiers: its kernels round differently, so both families are checked.</p>"
    )
    return section(
        "Does it decide like its float parent?",
        top,
        table("With 95 % intervals", ["", "share"], rows),
        note,
        twice(record),
    )


def twice(record: Record) -> str:
    """Every metric of the float parent and of the deployed file."""
    rows = record.get("metrics")
    if not rows:
        return ""
    body = [
        (
            text(name.replace("_", " ")),
            interval(r["float"]),
            interval(r["deployed"]),
            interval(r["difference"], 4),
        )
        for name, r in rows.items()
    ]
    return (
        "<details><summary>Every metric, float and deployed, with the paired interval of the difference</summary>"
        + table("Deployed − float, XNNPACK kernels", ["metric", "float", "deployed", "difference"], body)
        + "</details>"
    )


def latency(record: Record) -> str:
    """Latency, memory, where it was measured."""
    taken, memory, where = record["latency_ms"], record["memory"], record["environment"]
    values = (
        {"instructions": text(record["instructions"])}
        if taken is None
        else {
            "p50": f"{taken['p50']:.3f} ms",
            "p95": f"{taken['p95']:.3f} ms",
            "p99": f"{taken['p99']:.3f} ms",
        }
    )
    peak = memory.get("peak_rss_bytes")
    values |= {
        "model bytes": text(memory.get("model_bytes")),
        "MiB peak memory": "–" if peak is None else f"{peak / 2**20:.1f}",
    }
    chart = (
        ""
        if taken is None
        else charts.histogram(
            taken["samples"],
            title="Latency of one image",
            x_label="milliseconds",
            marks={f"p50 {taken['p50']:.3f}": taken["p50"], f"p95 {taken['p95']:.3f}": taken["p95"]},
        )
    )
    about = facts(
        "Measured on",
        {
            "target": record["target"],
            "emulated": record["emulated"],
            "backend": record.get("backend"),
            "threads": record.get("threads"),
            "processor": where.get("cpu"),
            "cores": where.get("usable_cores"),
            "system": where.get("os"),
            "python": where.get("python"),
            "packages": where.get("packages"),
        },
    )
    warning = f'<p class="notice">{escape(taken["warning"])}</p>' if taken and taken.get("warning") else ""
    ratio = record.get("ratio")
    against = (
        ""
        if not ratio
        else (
            f"<p>Against {text((record.get('other') or {}).get('model'))}, interleaved in one run: "
            f"<b>{escape(record['verdict'])}</b>, ratio {interval(ratio)}</p>"
        )
    )
    return section(
        f"How fast, how much memory: {record['target']}",
        tiles(values),
        warning,
        against,
        pair(chart, about),
        measuring.soak(record.get("soak")),
        measuring.profile(record.get("profile")),
    )


def unknown(record: Record) -> str:
    """A record no section knows: shown as it is."""
    return section(
        str(record.get("record", "record")),
        facts("Values", {k: v for k, v in record.items() if k != "record"}),
    )


SECTIONS: Mapping[str, Callable[[Record], str]] = {
    "train": training,
    "compress": smaller.compression,
    "export": model,
    "inspect": model,
    "adopt": model,
    "verify": parity,
    "evaluate": evaluation.evaluation,
    "bench": latency,
    "family": measuring.family,
    "audit": audits.audit,
    "sweep": sweeps.sweep,
    "calibrate": trust.calibration,
    "uncertainty": trust.uncertainty,
    "infoplane": plane.plane,
}

"""The loop's counts for machines: a health verdict, and Prometheus' text exposition format 0.0.4."""

from __future__ import annotations

from typing import Any, Mapping

from edge_derm.camera.counters import Counters

SILENT_S = 10.0


def health(counters: Counters, state: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """``healthy``: frames arrive and the model answers; with the reason where not."""
    summary = counters.summary()
    idle_s = counters.idle_s(state["now_s"])
    reasons = [
        f"no frame for {idle_s:.0f} s" if idle_s > SILENT_S else None,
        f"source: {state['source_lost']}" if state["source_lost"] else None,
        f"inference: {state['trouble']}" if state["trouble"] else None,
    ]
    said = [reason for reason in reasons if reason]
    return {
        "healthy": not said,
        "reasons": said,
        "model_sha256": about.get("model_sha256"),
        "idle_s": round(idle_s, 3),
        "restarts": state["restarts"],
        "drift": state.get("drift"),  # of the pictures, no fault of the service
        **summary,
    }


def exposition(counters: Counters, state: Mapping[str, Any], viewers: int) -> str:
    """Counters and gauges, one family after the other."""
    summary = counters.summary()
    lines: list[str] = []
    for name in (
        "frames",
        "dropped",
        "broken",
        "reopened",
        "unanswered",
        "abstained",
        "not_logged",
        "sink_errors",
    ):
        _family(lines, f"edge_derm_{name}_total", "counter", {"": summary[name]})
    rejected = {f'{{problem="{name}"}}': count for name, count in sorted(summary["rejected_for"].items())}
    _family(lines, "edge_derm_rejected_total", "counter", rejected)
    _family(lines, "edge_derm_worker_restarts_total", "counter", {"": state["restarts"]})
    _family(lines, "edge_derm_viewers", "gauge", {"": viewers})
    _family(lines, "edge_derm_fps", "gauge", {"": counters.recent_fps() or 0})
    _family(lines, "edge_derm_idle_seconds", "gauge", {"": round(counters.idle_s(state["now_s"]), 3)})
    latency = {
        f'{{stage="{stage}",quantile="{quantile}"}}': round(figures[key] / 1e3, 6)
        for stage, figures in summary["latency_ms"].items()
        if figures
        for key, quantile in (("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99"))
    }
    _family(lines, "edge_derm_latency_seconds", "gauge", latency)
    return "\n".join(lines) + "\n"


def _family(lines: list[str], name: str, kind: str, values: Mapping[str, float]) -> None:
    if values:
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(f"{name}{labels} {value}" for labels, value in values.items())

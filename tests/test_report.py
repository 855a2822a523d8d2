"""The page: whole, self-contained, escaped; charts with text alternatives."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from edge_derm.report import charts, markup, page, sections, smaller

HOSTILE = "<script>alert(1)</script>"


class Balance(HTMLParser):
    """Every element that opens must close, in order."""

    VOID = {"meta", "img", "br", "path", "rect", "circle"}

    def __init__(self):
        super().__init__()
        self.open, self.images, self.charts = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        if tag == "svg":
            self.charts.append(dict(attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def records():
    latency = {
        "p50": 1.0,
        "p90": 1.2,
        "p95": 1.3,
        "p99": 2.0,
        "mean": 1.1,
        "ci95": [0.9, 1.1],
        "samples": [1.0, 1.1, 1.2] * 20,
        "warning": None,
    }
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    none = {"value": None, "low": None, "high": None, "n": 0, "reason": HOSTILE}
    per = {"sensitivity": figure, "specificity": none, "ppv": figure, "npv": figure, "f1": None, "n": 5}
    return [
        {
            "record": "bench",
            "target": "local",
            "emulated": False,
            "latency_ms": latency,
            "instructions": None,
            "memory": {"model_bytes": 5, "peak_rss_bytes": 2**20},
            "environment": {"cpu": HOSTILE},
        },
        {
            "record": "bench",
            "target": "qemu:cortex-a72",
            "emulated": True,
            "latency_ms": None,
            "instructions": 6_190_000,
            "memory": {},
            "environment": {},
        },
        {
            "record": "evaluate",
            "images": 10,
            "part": "all",
            "labels": [HOSTILE, "b"],
            "confusion": [[3, 2], [1, 4]],
            "accuracy": figure,
            "balanced_accuracy": none,
            "ece": figure,
            "ece_debiased": 0.02,
            "ece_noise": 0.03,
            "brier": figure,
            "per_class": {HOSTILE: per, "b": per},
            "auroc": {HOSTILE: figure, "b": none},
            "reliability": [{"confidence": 0.5, "accuracy": 0.6, "n": 3}],
            "roc": {
                HOSTILE: {"false_positive_rate": [0, 0.5, 1], "sensitivity": [0, 0.8, 1]},
                "b": {"false_positive_rate": [], "sensitivity": []},
            },
        },
        {"record": "verify"},  # lacks everything: shown as it is
        {"record": "something new", "values": list(range(30)), "nested": {"a": None}},
    ]


def test_the_page_is_whole_and_hostile_text_stays_text(tmp_path):
    page.render(records(), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert HOSTILE not in text and "&lt;script&gt;" in text
    seen = Balance()
    seen.feed(text)
    assert not seen.open
    assert len(seen.charts) == 3 and all(chart["aria-label"] for chart in seen.charts)
    for word in ("something new", "6,190,000", "qemu:cortex-a72", "Not a medical device", "verify"):
        assert word in text
    assert "http:" not in text and "https:" not in text and "<script" not in text


def test_a_page_without_records_still_states_its_limits(tmp_path):
    page.render([], tmp_path / "r.html")
    assert "Not a medical device" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("low, high", [(0, 1), (0, 0.003), (-5, 1200), (0.2, 0.2000001), (3, 3)])
def test_ticks_lie_inside_and_are_few(low, high):
    frame = charts.Frame((low, high), (0, 1))
    ticks = charts._ticks(frame.x0, frame.x1)
    assert 2 <= len(ticks) <= 12 and frame.x0 - 1e-9 <= ticks[0] and ticks[-1] <= frame.x1 + 1e-9
    assert ticks == sorted(set(ticks))


def test_coordinates_span_the_frame():
    frame = charts.Frame((0, 10), (0, 1))
    assert frame.x(0) == charts.LEFT and frame.x(10) == charts.WIDTH - charts.RIGHT
    assert frame.y(0) == charts.HEIGHT - charts.BOTTOM and frame.y(1) == charts.TOP


def test_figures_without_a_value_say_why():
    assert markup.interval({"value": None, "reason": "one class"}) == "one class"
    assert markup.interval(None) == "–"
    assert markup.interval({"value": 0.5, "low": 0.25, "high": 0.75, "n": 4}, 2).startswith("0.50")
    below = markup.interval({"value": -0.001, "low": -0.15, "high": 0.02, "n": 4}, 2)
    assert below.startswith("0.00") and "(−0.15 to 0.02)" in below


def test_a_few_slow_calls_do_not_flatten_the_histogram():
    quick = np.random.default_rng(0).uniform(1, 2, 97)
    drawn = charts.histogram([*quick, 90, 95, 99], title="t", x_label="ms", marks={"p50": 1.5})
    ticks = [float(tick) for tick in re.findall(r'text-anchor="middle" x="[^"]+" y="[^"]+">([\d.]+)<', drawn)]
    assert max(ticks) < 5 and drawn.count('class="bar"') > 10


def test_one_point_is_drawn_and_the_ninth_line_is_not_the_first_again():
    assert '<circle class="dot c0"' in charts.lines({"a": ([1], [2])}, title="t", x_label="x", y_label="y")
    many = {str(number): ([0, 1], [number, 0]) for number in range(9)}
    drawn = charts.lines(many, title="t", x_label="x", y_label="y")
    assert len({drawn.count(f'"line c{k}"') for k in range(8)}) == 1 and '"line c0 again"' in drawn


def test_a_profile_and_a_soak_are_shown():
    from edge_derm.report import measuring

    cost = {"value": 0.0354, "low": 0.0353, "high": 0.0356}
    row = {
        "index": 1,
        "name": "DEPTHWISE_CONV_2D",
        "output_shape": [1, 64, 64, 8],
        "macs": 294912,
        "cost_ms": cost,
        "share": 0.163,
    }
    shown = measuring.profile({"method": "timed <sub-graphs>", "whole_ms": 0.222, "operators": [row]})
    assert (
        "DEPTHWISE_CONV_2D" in shown
        and "35.4" in shown
        and "16.3" in shown
        and "timed &lt;sub-graphs&gt;" in shown
    )
    windows = [{"at_seconds": 10 * i, "p50_ms": 1.0 + i / 100, "p95_ms": 1.2} for i in range(12)]
    drift = {"value": 1.08, "low": 1.06, "high": 1.1}
    found = {
        "minutes": 2.0,
        "runs": 9,
        "verdict": "slower",
        "drift": drift,
        "throttled": True,
        "windows": windows,
    }
    assert (
        "slower" in measuring.soak(found)
        and "<svg" in measuring.soak(found)
        and "throttled: yes" in measuring.soak(found)
    )
    assert measuring.profile(None) == measuring.soak(None) == ""


def test_a_compression_and_its_roundings_are_shown():
    figures = {"accuracy": 0.68, "balanced_accuracy": 0.66}
    record = {
        "record": "compress",
        "method": "prune",
        "settings": {"method": "prune", "keep": 0.6, "size_px": None},
        "macs": 6_000_000,
        "parameters": 100_000,
        "sparsity": 0.25,
        "agreement": 0.875,
        "seconds": 90.0,
        "validation": figures,
        "parent": {"macs": 12_000_000, "parameters": 200_000, "validation": {**figures, "accuracy": 0.75}},
    }
    page = sections.SECTIONS["compress"](record)
    for shown in ("50%", "25%", "87.5%", "0.75", "0.68", "keep"):
        assert shown in page, shown
    rows = [
        {"layer": f"conv<{i}>", "what": "weights", "agreement": 0.9, "margin_change": i / 100}
        for i in range(15)
    ]
    table = smaller.roundings(rows)
    assert "conv&lt;14&gt;" in table and "conv&lt;2&gt;" not in table and "conv<" not in table
    assert smaller.roundings([]) == ""

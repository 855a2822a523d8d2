"""Small charts as inline SVG: they scale, print, follow dark and light, and need no library on a board.

Colours come from the page's style sheet; every chart carries a text alternative.
"""

from __future__ import annotations

from html import escape
from typing import Any, Mapping, Sequence

import numpy as np

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 44
COLOURS = 8  # of the style sheet; lines past them are dashed


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    points: bool = False,
    spots: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Curves by name, each (xs, ys); ``diagonal`` draws the line y = x behind them; ``spots`` are single named points."""
    xs = np.concatenate([np.asarray(x, float) for x, _ in series.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in series.values()])
    if not len(xs):
        return ""
    frame = Frame(
        x_range or (float(xs.min()), float(xs.max())), y_range or (float(ys.min()), float(ys.max()))
    )
    parts = [frame.axes(x_label, y_label)]
    if diagonal:
        parts.append(frame.path([0, 1], [0, 1], "guide"))
    for number, (x, y) in enumerate(series.values()):
        dashed = " again" if number >= COLOURS else ""
        parts.append(frame.path(x, y, f"line c{number % COLOURS}{dashed}"))
        if points or len(x) == 1:
            parts += [
                f'<circle class="dot c{number % COLOURS}" cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="3.5"/>'
                for a, b in zip(x, y)
            ]
    named = list(series)
    for number, (name, (left, up)) in enumerate((spots or {}).items(), 1):
        named.append(f"{number}: {name}")
        place = (len(series) + number - 1) % COLOURS
        parts.append(
            f'<circle class="dot c{place}" cx="{frame.x(left):.1f}" cy="{frame.y(up):.1f}" r="5"/>'
            f'<text class="tick" x="{frame.x(left) + 7:.1f}" y="{frame.y(up) + 4:.1f}">{number}</text>'
        )
    return _svg(title, "".join(parts)) + legend(named)


def shares(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], **more: Any) -> str:
    """``lines`` of one share against another, with the diagonal; nothing without a series."""
    return lines(series, x_range=(0, 1), y_range=(0, 1), diagonal=True, **more) if series else ""


def scatter(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    front: Sequence[tuple[float, float]],
    title: str,
    x_label: str,
    y_label: str,
) -> str:
    """Points by name, each (xs, ys), and a line through ``front``."""
    points = [(a, b) for xs, ys in series.values() for a, b in zip(xs, ys)]
    if not points:
        return ""
    across, up = zip(*points)
    frame = Frame((min(across), max(across)), (min(up), max(up)))
    parts = [frame.axes(x_label, y_label)]
    if len(front) > 1:
        parts.append(frame.path([a for a, _ in front], [b for _, b in front], "guide"))
    for number, (xs, ys) in enumerate(series.values()):
        parts += [
            f'<circle class="dot c{number % COLOURS}" cx="{frame.x(a):.1f}" cy="{frame.y(b):.1f}" r="3.5"/>'
            for a, b in zip(xs, ys)
        ]
    return _svg(title, "".join(parts)) + legend(list(series))


def histogram(
    values: Sequence[float], *, title: str, x_label: str, marks: Mapping[str, float], bins: int = 40
) -> str:
    """Counts of ``values``; ``marks`` are named vertical lines. The last bin holds what is beyond the picture, too.

    Beyond: the last hundredth, and what lies five times as far from the median as the 95th percentile does.
    """
    middle, far, last = np.percentile(values, [50, 95, 99])
    shown = np.minimum(
        np.asarray(values, float), min(last, middle + 5 * (far - middle)) if far > middle else last
    )
    counts, edges = np.histogram(shown, bins=bins)
    frame = Frame((float(edges[0]), float(edges[-1])), (0.0, float(counts.max())))
    bars = [
        f'<rect class="bar" x="{frame.x(a) + 0.5:.1f}" y="{frame.y(c):.1f}" width="{max(0.5, frame.x(b) - frame.x(a) - 1):.1f}" '
        f'height="{frame.y(0) - frame.y(c):.1f}"/>'
        for a, b, c in zip(edges, edges[1:], counts)
        if c
    ]
    for number, (name, value) in enumerate(marks.items()):
        at = frame.x(min(value, edges[-1]))
        bars.append(
            f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            f'<text class="tick" x="{at + 4:.1f}" y="{TOP + 12 + 14 * number}">{escape(name)}</text>'
        )
    return _svg(title, frame.axes(x_label, "samples") + "".join(bars))


def legend(names: Sequence[str]) -> str:
    """Names with their colours."""
    if len(names) < 2:
        return ""
    items = "".join(
        f'<span><i class="c{i % COLOURS}"></i>{escape(name)}</span>' for i, name in enumerate(names)
    )
    return f'<p class="legend">{items}</p>'


class Frame:
    """Data coordinates to picture coordinates, and the axes."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x0, self.x1 = _open(*x_range)
        self.y0, self.y1 = _open(*y_range)

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def path(self, xs: Sequence[float], ys: Sequence[float], style: str) -> str:
        route = " ".join(
            f"{'L' if i else 'M'}{self.x(a):.1f} {self.y(b):.1f}" for i, (a, b) in enumerate(zip(xs, ys))
        )
        return f'<path class="{style}" d="{route}"/>'

    def axes(self, x_label: str, y_label: str) -> str:
        parts = [f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
        for value in _ticks(self.x0, self.x1):
            parts.append(
                f'<text class="tick" text-anchor="middle" x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 15}">'
                f"{value:g}</text>"
            )
        for value in _ticks(self.y0, self.y1):
            parts.append(
                f'<path class="grid" d="M{LEFT} {self.y(value):.1f}H{WIDTH - RIGHT}"/>'
                f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{self.y(value) + 4:.1f}">{value:g}</text>'
            )
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text class="label" text-anchor="middle" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}">{escape(x_label)}</text>'
            f'<text class="label" text-anchor="middle" transform="translate(14 {middle}) rotate(-90)">'
            f"{escape(y_label)}</text>"
        )
        return "".join(parts)


def _open(low: float, high: float) -> tuple[float, float]:
    """A range of some width."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10 ** np.floor(np.log10(rough))
    step = float(next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999))
    first = np.ceil(low / step - 1e-9)
    return [
        round(float(value) * step, 10) + 0.0 for value in np.arange(first, np.floor(high / step + 1e-9) + 1)
    ]


def _svg(title: str, body: str) -> str:
    return (
        f'<h3>{escape(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{body}</svg>'
    )

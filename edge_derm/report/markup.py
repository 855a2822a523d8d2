"""Pieces of HTML. Everything that comes from outside is escaped here."""

from __future__ import annotations

from html import escape
from typing import Any, Iterable, Mapping, Sequence


def text(value: Any) -> str:
    """Any value as escaped text; None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))


def interval(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    """``0.812 (0.790–0.834)``, ``−0.09 (−0.15 to 0.03)``, or why there is none."""
    if not figure or figure.get("value") is None:
        return escape((figure or {}).get("reason") or "–")
    value, low, high = (signed(figure[key], digits) for key in ("value", "low", "high"))
    between = " to " if "−" in low + high else "–"
    return f"{value} <span class='soft'>({low}{between}{high})</span>"


def signed(number: float, digits: int) -> str:
    """Rounded, with a minus sign that a dash is not taken for; never −0."""
    rounded = f"{number:.{digits}f}"
    return rounded.replace("-", "−") if float(rounded) else rounded.lstrip("-")


def tiles(values: Mapping[str, str]) -> str:
    """The few figures a reader wants first; values are HTML."""
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>'
            for name, value in values.items()
        )
        + "</div>"
    )


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a caption; cells are HTML, all but the first column set as numbers."""
    header = "".join(f'<th scope="col"{_number(i)}>{escape(name)}</th>' for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{_number(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(caption: str, values: Mapping[str, Any]) -> str:
    """A table of names and values; nested values are written out."""
    return table(caption, ["", ""], [(escape(str(name)), _plain(value)) for name, value in values.items()])


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def pair(*parts: str) -> str:
    """Side by side where there is room."""
    return '<div class="pair">' + "".join(f"<div>{part}</div>" for part in parts if part) + "</div>"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(str(k))} {_plain(v)}" for k, v in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_plain(v) for v in value[:12])
        return shown + (f", … ({len(value)} values)" if len(value) > 12 else "") if value else "–"
    return text(value)


def _number(column: int) -> str:
    return ' class="number"' if column else ""

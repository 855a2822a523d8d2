"""The page: header, one section a record, limits. One file, no network, readable on a phone."""

from __future__ import annotations

from html import escape
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Mapping, Sequence

from edge_derm import __version__, files
from edge_derm.report import samples, sections

LIMITS = """<section><h2>Limits</h2>
<p><b>Not a medical device.</b> Nothing on this page is fit to decide about a patient.</p>
<p>Figures hold for images of the kind they were measured on; another camera, clinic or population is another matter.
Synthetic pictures are drawn by a program and say nothing about patients. Latency holds for the machine it is stated for.</p>
</section>"""


def render(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the page for ``records`` to ``out``, whole or not at all. Unknown records are shown as tables."""
    predicted = [record for record in records if record.get("record") == "predict"]
    parts = [_section(record) for record in records if record.get("record") != "predict"]
    if predicted:
        parts.append(samples.predictions(predicted))
    style = resources("edge_derm.report").joinpath("style.css").read_text(encoding="utf-8")
    files.write_text(
        out,
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(_title(records))}</title>
<style>{style}</style>
</head>
<body>
<main>
<p class="notice">Not a medical device: a research and engineering report.</p>
<h1>{escape(_title(records))}</h1>
<p class="soft">edge_derm {escape(__version__)}</p>
{"".join(parts)}
{LIMITS}
</main>
</body>
</html>
""",
    )


def _section(record: Mapping[str, Any]) -> str:
    write = sections.SECTIONS.get(str(record.get("record")), sections.unknown)
    try:
        return write(record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        # A record of another version lacks what its section wants: show what there is rather than nothing.
        return sections.unknown(record)


def _title(records: Sequence[Mapping[str, Any]]) -> str:
    for record in records:
        if record.get("record") == "train":
            return f"{record.get('variant')} at {record.get('size_px')} px: the evidence"
        if record.get("record") == "sweep":
            return f"{len(record.get('configurations') or ())} configurations compared"
    return "The evidence"

"""Sample pictures: what the model says of each, whether it abstained, and where it looked."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any, Mapping, Sequence

from edge_derm.report import trust
from edge_derm.report.markup import section

Record = Mapping[str, Any]
PICTURE_LIMIT = 4_000_000  # bytes; a larger picture is named, not shown
MEDIA = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".bmp": "bmp"}
FLAT = 0.05  # of a mask's range in a picture: below it, the network looked everywhere alike (ours)

OVERRULED = (
    "<p>The name is the network's own answer, for which every class counts alike; the bars are how often each diagnosis is right "
    "among pictures like those it was calibrated on. A rare one may be named though a common one is more probable.</p>"
)
FOREIGN = (
    "<p><b>“Foreign”</b> means that the picture is unlike those the model knows. It may be of anything: no name given here means "
    "anything.</p>"
)
LOOKED = (
    "<p><b>Where it looked.</b> The second picture of each is the first with the network's own mask over it: blue counts once, "
    "yellow twice. It says where, not why, and is no proof that the lesion decided.</p>"
)


def predictions(records: Sequence[Record]) -> str:
    """The section: words first, then the pictures."""
    words = [
        (trust.ABSTAINED, any(record.get("abstained") is not None for record in records)),
        (FOREIGN, any(record.get("foreign") for record in records)),
        (OVERRULED, any(_first(record) != record["label"] for record in records)),
        (LOOKED, any(record.get("mask") for record in records)),
    ]
    explained = "".join(said for said, needed in words if needed)
    figures = "".join(figure(record) for record in records)
    return section("Sample predictions", explained, f'<div class="pictures">{figures}</div>')


def figure(record: Record) -> str:
    """One picture, its mask, its state; bars of the class it would name and the two most probable others."""
    named, mask = record["label"], record.get("mask")
    ranked = sorted(record["probabilities"].items(), key=lambda item: (item[0] != named, -item[1]))[:3]
    bars = "".join(
        f'<div>{escape(name)} {value:.2f}<div class="meter"><i style="width:{100 * value:.0f}%"></i></div></div>'
        for name, value in ranked
    )
    shown = picture(Path(record["image"])) + (picture(Path(mask["file"])) if mask else "")
    return (
        f"<figure>{shown}<figcaption>{state(record)}<br>"
        f"{escape(Path(record['image']).name)}{bars}{looked(mask)}</figcaption></figure>"
    )


def state(record: Record) -> str:
    """The name, or that it abstained; foreign; what is plausible."""
    told = f"<b>{escape(record['label'])}</b>"
    if record.get("abstained"):
        told = '<b class="warn">abstained</b>: not sure enough to answer'
    if record.get("foreign"):
        told += ' · <b class="warn">foreign</b>: unlike what it knows'
    plausible = record.get("prediction_set")
    if plausible is not None:
        told += f"<br>plausible: {escape(', '.join(plausible)) or 'none of its classes'}"
    return told


def looked(mask: Record | None) -> str:
    """The mask's range in words."""
    if not mask:
        return ""
    least, most = mask["least"], mask["most"]
    flat = "everywhere alike, " if most - least < FLAT else ""
    return f'<div class="soft">mask: {flat}{least:.2f} to {most:.2f}</div>'


def picture(path: Path) -> str:
    """An image inside the page, or its name where it is gone or too large."""
    media = MEDIA.get(path.suffix.lower())
    if media is None or not path.is_file() or path.stat().st_size > PICTURE_LIMIT:
        return f'<p class="soft">{escape(path.name)} (not shown)</p>'
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(path.name, quote=True)}" src="data:image/{media};base64,{data}">'


def _first(record: Record) -> str:
    return max(record["probabilities"], key=record["probabilities"].__getitem__)

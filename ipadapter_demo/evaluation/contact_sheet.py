"""Many pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ipadapter_demo.imaging import resize_image


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], side: int, gap: int = 0, head: int = 0
) -> Image.Image:
    """Cells of `side` pixels on white, a gap behind each and left of the first, under a head."""
    each = side + gap
    sheet = Image.new("RGB", (gap + max(map(len, rows)) * each, head + len(rows) * each), "white")
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            place = gap + column * each, head + line * each
            sheet.paste(resize_image(picture, (side, side)), place)
    return sheet


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """One above the other."""
    whole = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole

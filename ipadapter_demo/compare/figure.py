"""The figure of a comparison, as a paper prints it: PDF and SVG with real text, and PNG.

Equal comparisons give equal bytes: no dates, no versions, no random names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ipadapter_demo.compare.grid import Cell, Page
from ipadapter_demo.compare.job import Job
from ipadapter_demo.compare.text import FAMILY, text_width, wrapped
from ipadapter_demo.imaging import read_image

# Inches: one column of two, and the whole width, of a page such as CVPR's.
WIDTHS = {"single": 3.25, "double": 6.875}
DPI = 300
POINTS = 72.0  # an inch
FONT = 7.0  # points
LINE = 1.25 * FONT
GAP = 1.5  # points between cells
HEAD = 0.18  # of the width, at most, for the heads of rows
ZOOMED = 0.45  # of a cell's side, for the part that is shown larger
MARK = "#e3342f"
FORMATS = ("pdf", "svg", "png")

Box = tuple[float, float, float, float]  # left, bottom, width, height, in parts of the figure

_TEXT_STAYS_TEXT: Any = {
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "comparison", "font.size": FONT,
    "font.family": FAMILY, "text.parse_math": False,
}
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


def write_figures(job: Job, folder: Path) -> list[Path]:
    """figure-p1.pdf, .svg and .png into `folder`, and so on for every page; their paths."""
    chosen = job.plan.spec.document.get("figure", {})
    paths = []
    for number, page in enumerate(job.plan.grid.pages, 1):
        with matplotlib.rc_context(_TEXT_STAYS_TEXT):
            figure = draw(job, page, _inches(chosen), chosen.get("zoom"))
            for kind in FORMATS:
                path = folder / f"figure-p{number}.{kind}"
                figure.savefig(path, dpi=chosen.get("dpi", DPI), metadata=_METADATA[kind])
                paths.append(path)
    return paths


def draw(job: Job, page: Page, inches: float, zoom: list[float] | None = None) -> Figure:
    """One page. `zoom` is the part of every cell that is shown larger: left, top, width and
    height, in fractions."""
    pictures = [[_picture(job, panel) for panel in row] for row in page.panels]
    aspect = max((i.height / i.width for row, panels in zip(pictures, page.panels, strict=True)
                  for i, panel in zip(row, panels, strict=True)
                  if i is not None and isinstance(panel, Cell)), default=1.0)
    width, columns = inches * POINTS, len(page.column_heads)
    down = [wrapped(head, HEAD * width, FONT) for head in page.row_heads]
    left = max(text_width(text, FONT) for text in down)
    left += 4 if left else 0
    side = (width - left - columns * GAP) / columns
    across = [wrapped(head, side, FONT) for head in page.column_heads]
    label = wrapped(page.label, width, FONT)
    top = LINE * (max((text.count("\n") + 1 for text in across), default=0) + 0.4)
    top += LINE * (label.count("\n") + 1.4) if page.label else 0.0
    height = top + len(page.panels) * (side * aspect + GAP)

    figure = Figure(figsize=(inches, height / POINTS), facecolor="white")
    place: dict[str, Any] = {"va": "center", "ha": "center", "fontsize": FONT, "linespacing": 1.15}
    if page.label:
        figure.text(0.5, 1 - 0.2 * LINE / height, label, **place | {"va": "top"})
    for column, text in enumerate(across):
        x = (left + column * (side + GAP) + side / 2) / width
        figure.text(x, 1 - (top - 0.3 * LINE) / height, text, **place | {"va": "bottom"})
    for row, texts in enumerate(zip(pictures, page.panels, strict=True)):
        bottom = 1 - (top + row * (side * aspect + GAP) + side * aspect) / height
        middle = bottom + side * aspect / 2 / height
        if left:
            figure.text((left - 4) / width, middle, down[row], **place | {"ha": "right"})
        for column, (picture, panel) in enumerate(zip(*texts, strict=True)):
            box = ((left + column * (side + GAP)) / width, bottom, side / width,
                   side * aspect / height)
            if picture is not None:
                _show(figure, _within(box, aspect, picture), picture, zoom)
            elif isinstance(panel, Cell):
                words = wrapped(job.message(panel) or "not drawn yet", side - 4, FONT - 1)
                figure.text(box[0] + box[2] / 2, middle, words, color="grey",
                            **place | {"fontsize": FONT - 1})
    return figure


def _within(box: Box, aspect: float, picture: Image.Image) -> Box:
    """The middle of a box that is `aspect` times as high as wide, in the picture's proportions."""
    left, bottom, width, height = box
    own = picture.height / picture.width
    if own < aspect:
        return left, bottom + height * (1 - own / aspect) / 2, width, height * own / aspect
    return left + width * (1 - aspect / own) / 2, bottom, width * aspect / own, height


def _show(figure: Figure, box: Box, picture: Image.Image, zoom: list[float] | None) -> None:
    panel = figure.add_axes(box)
    panel.set_axis_off()
    # "none": vector formats keep the picture's own pixels
    panel.imshow(picture, interpolation="none", aspect="auto")
    if zoom is None:
        return
    left, top, width, height = (int(part * side) for part, side in zip(zoom, picture.size * 2,
                                                                       strict=True))
    part = picture.crop((left, top, left + max(1, width), top + max(1, height)))
    panel.add_patch(Rectangle((left, top), part.width, part.height, fill=False, ec=MARK, lw=0.6))
    inset = figure.add_axes((box[0] + box[2] * (1 - ZOOMED), box[1], box[2] * ZOOMED,
                             box[3] * ZOOMED * (part.height / part.width)
                             * (picture.width / picture.height)))
    inset.imshow(part, interpolation="none", aspect="auto")
    inset.set(xticks=[], yticks=[])
    for spine in inset.spines.values():
        spine.set(edgecolor=MARK, linewidth=0.6)


def _picture(job: Job, panel: Any) -> Image.Image | None:
    if panel is None or not job.path(panel).exists():
        return None
    return read_image(job.path(panel)).convert("RGB")


def _inches(chosen: dict[str, Any]) -> float:
    width = chosen.get("width", "double")
    return WIDTHS[width] if isinstance(width, str) else float(width)

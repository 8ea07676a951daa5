"""The figure of a comparison, as a paper prints it: PDF and SVG with real text, and PNG.

Equal comparisons give equal bytes: no dates, no versions, no random names.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ipadapter_demo.compare.comparison import Figure as FigureOptions
from ipadapter_demo.compare.fonts import families
from ipadapter_demo.compare.grid import Cell, Given, Page
from ipadapter_demo.compare.job import Job
from ipadapter_demo.compare.layout import (
    FONT,
    GAP,
    HEAD,
    LINE,
    POINTS,
    Layout,
    check_layout,
    inches_wide,
    lines_high,
    page_layout,
)
from ipadapter_demo.compare.names import FORMATS
from ipadapter_demo.compare.text import text_width, wrapped
from ipadapter_demo.imaging import MAX_PIXELS, read_image, resize_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ZOOMED = 0.45  # of a cell's side, for the part that is shown larger
MARK = "#e3342f"

_TEXT_STAYS_TEXT: Any = {
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "comparison",
    "font.size": FONT,
    "text.parse_math": False,
}
_METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
_CENTRED: dict[str, Any] = {"va": "center", "ha": "center", "fontsize": FONT, "linespacing": 1.15}

Box = tuple[float, float, float, float]  # left, bottom, width and height


def page_figures(job: Job, number: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of figure-p1.pdf, .svg and .png, of page 1, say."""
    import matplotlib

    options = job.plan.spec.comparison.figure
    page = job.plan.grid.pages[number - 1]
    words = "".join(
        [page.label, *page.row_heads, *page.column_heads, *map(job.message, page.cells)]
    )
    with matplotlib.rc_context(_TEXT_STAYS_TEXT | {"font.family": families(words)}):
        figure = draw(job, number, options)
        for kind in FORMATS:
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=options.dpi, metadata=_METADATA[kind])
            yield f"figure-p{number}.{kind}", content.getvalue()


def draw(job: Job, number: int, options: FigureOptions) -> Figure:
    """One page."""
    from matplotlib.figure import Figure

    page = job.plan.grid.pages[number - 1]
    each = MAX_PIXELS // sum(map(len, page.panels))
    pictures = [[_picture(job, panel, each) for panel in row] for row in page.panels]
    layout = _layout_of(page, pictures, inches_wide(options))
    check_layout(layout, options, number)
    width, height, tall = layout.width, layout.height, layout.side * layout.aspect
    figure = Figure(figsize=(width / POINTS, height / POINTS), facecolor="white")
    _write_heads(figure, page, layout)
    for row, texts in enumerate(zip(pictures, page.panels, strict=True)):
        bottom = height - layout.top - row * (tall + GAP) - tall
        for column, (picture, panel) in enumerate(zip(*texts, strict=True)):
            box = (layout.left + column * (layout.side + GAP), bottom, layout.side, tall)
            if picture is not None:
                x, y, w, h = _fitted(box, picture)
                _show(figure, (x / width, y / height, w / width, h / height), picture, options.zoom)
            elif isinstance(panel, Cell):
                words = wrapped(job.message(panel) or "not drawn yet", layout.side - 4, FONT - 1)
                figure.text(
                    (box[0] + box[2] / 2) / width,
                    (bottom + tall / 2) / height,
                    words,
                    color="grey",
                    **_CENTRED | {"fontsize": FONT - 1},
                )
    return figure


def _write_heads(figure: Figure, page: Page, layout: Layout) -> None:
    width, height, left, side = layout.width, layout.height, layout.left, layout.side
    if page.label:
        figure.text(
            0.5,
            1 - 0.2 * LINE / height,
            wrapped(page.label, width, FONT),
            **_CENTRED | {"va": "top"},
        )
    for column, head in enumerate(page.column_heads):
        x = (left + column * (side + GAP) + side / 2) / width
        figure.text(
            x,
            1 - (layout.top - 0.3 * LINE) / height,
            wrapped(head, side, FONT),
            **_CENTRED | {"va": "bottom"},
        )
    for row, head in enumerate(page.row_heads if left else ()):
        middle = height - layout.top - row * (side * layout.aspect + GAP) - side * layout.aspect / 2
        figure.text(
            (left - 4) / width,
            middle / height,
            wrapped(head, HEAD * width, FONT),
            **_CENTRED | {"ha": "right"},
        )


def _layout_of(page: Page, pictures: list[list[Image.Image | None]], inches: float) -> Layout:
    width = inches * POINTS
    left = max(text_width(wrapped(head, HEAD * width, FONT), FONT) for head in page.row_heads)
    left += 4 if left else 0
    side = page_layout(page, inches, left, 0.0, 1.0).side
    lines = [wrapped(head, side, FONT).count("\n") + 1 for head in page.column_heads]
    top = lines_high(max(lines, default=0), 0.4)
    if page.label:
        top += lines_high(wrapped(page.label, width, FONT).count("\n"), 1.4)
    shown = zip(
        (p for row in page.panels for p in row), (i for row in pictures for i in row), strict=True
    )
    # the cells' proportions, not those of what is shown beside them
    sizes = sorted((not isinstance(panel, Cell), i.height / i.width) for panel, i in shown if i)
    aspects = [aspect for beside, aspect in sizes if beside == sizes[0][0]]
    return page_layout(page, inches, left, top, max(aspects, default=1.0))


def _fitted(box: Box, picture: Image.Image) -> Box:
    """The largest place in the middle of `box` that has the picture's proportions."""
    left, bottom, width, height = box
    scale = min(width / picture.width, height / picture.height)
    wide, tall = picture.width * scale, picture.height * scale
    return left + (width - wide) / 2, bottom + (height - tall) / 2, wide, tall


def _show(figure: Figure, box: Box, picture: Image.Image, zoom: Sequence[float] | None) -> None:
    """In `box`, in fractions of the figure. `zoom` is the part that is shown larger: left, top,
    width and height, in fractions of the picture."""
    from matplotlib.patches import Rectangle

    panel = figure.add_axes(box)
    panel.set_axis_off()
    # "none": vector formats keep the picture's own pixels, up to MAX_PIXELS of a page
    panel.imshow(picture, interpolation="none", aspect="auto")
    if zoom is None:
        return
    left, top, width, height = (
        int(part * side) for part, side in zip(zoom, picture.size * 2, strict=True)
    )
    part = picture.crop((left, top, left + max(1, width), top + max(1, height)))
    panel.add_patch(Rectangle((left, top), part.width, part.height, fill=False, ec=MARK, lw=0.6))
    tall = (part.height / part.width) * (picture.width / picture.height)
    wide = ZOOMED / max(1.0, tall)  # the longer side within the cell
    inset = figure.add_axes(
        (box[0] + box[2] * (1 - wide), box[1], box[2] * wide, box[3] * wide * tall)
    )
    inset.imshow(part, interpolation="none", aspect="auto")
    inset.set(xticks=[], yticks=[])
    for spine in inset.spines.values():
        spine.set(edgecolor=MARK, linewidth=0.6)


def _picture(job: Job, panel: Cell | Given | None, most: int) -> Image.Image | None:
    """With at most so many pixels, that all of a page may be held at once."""
    if panel is None or not job.path(panel).exists():
        return None
    image = read_image(job.path(panel)).convert("RGB")
    scale = min(1.0, math.sqrt(most / (image.width * image.height)))
    size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    return image if size == image.size else resize_image(image, size)

"""The size of a page of the figure, known before any of its cells is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ipadapter_demo.compare.comparison import Figure
from ipadapter_demo.compare.grid import Grid, Page
from ipadapter_demo.compare.text import MAX_LINES
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import MAX_PIXELS
from ipadapter_demo.request import GenerateRequest

# Inches: one column of two, and the whole width, of a page such as CVPR's.
WIDTHS = {"single": 3.25, "double": 6.875}
POINTS = 72.0  # an inch
FONT = 7.0  # points
LINE = 1.25 * FONT
GAP = 1.5  # points between cells
HEAD = 0.18  # of the width, at most, for the heads of rows
MIN_SIDE = 2.0  # points of a cell
ROUNDING = 1e-6  # of decimal fractions, as in 0.7 + 0.3
MAX_HEIGHT = 200  # inches, of a page that PDF readers open (ISO 32000-1, annex C)


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of things on a page, in points: the heads of rows `left`, those of columns and the
    label in `top`, and cells of `side` x `side * aspect`."""

    width: float
    left: float
    top: float
    side: float
    aspect: float
    rows: int

    @property
    def height(self) -> float:
        return self.top + self.rows * (self.side * self.aspect + GAP)


def inches_wide(figure: Figure) -> float:
    return WIDTHS[figure.width] if isinstance(figure.width, str) else float(figure.width)


def check_size(grid: Grid, figure: Figure, aspect: Callable[[GenerateRequest], float]) -> None:
    """Raises RequestError where a page would be too large to draw, or the part that is shown larger
    does not lie in a picture. Reckons with the widest cells and the most lines that its heads may
    leave room for; `aspect` is height by width of the picture that a request gives."""
    if figure.zoom is not None:
        left, top, width, height = figure.zoom
        if not (0 < width <= 1 - left + ROUNDING and 0 < height <= 1 - top + ROUNDING):
            raise RequestError(
                "figure.zoom must be left, top, width and height of a part of the picture, "
                f"got {left:g}, {top:g}, {width:g}, {height:g}"
            )
    inches = inches_wide(figure)
    for number, page in enumerate(grid.pages, 1):
        left = HEAD * inches * POINTS + 4 if any(page.row_heads) else 0.0
        if page_layout(page, inches, left, 0.0, 1.0).side < MIN_SIDE:
            raise RequestError(
                f"figure.width: {len(page.column_heads)} columns have no room in "
                f"{inches:g} inches: choose more, or put some on pages"
            )
        top = lines_high(MAX_LINES, 0.4) + (lines_high(MAX_LINES, 1.4) if page.label else 0.0)
        tallest = max(aspect(cell.planned) for cell in page.cells)
        check_layout(page_layout(page, inches, 0.0, top, tallest), figure, number)


def check_layout(layout: Layout, figure: Figure, number: int) -> None:
    """Raises RequestError for a page that is too large to be drawn or to be opened."""
    inches, dpi = inches_wide(figure), figure.dpi
    width, height = (math.ceil(points / POINTS * dpi) for points in (layout.width, layout.height))
    most = math.floor(dpi * math.sqrt(MAX_PIXELS / (width * height)))
    if most < dpi:
        raise RequestError(
            f"figure: page {number} may take {width:,} x {height:,} pixels, of which {MAX_PIXELS:,}"
            f" can be drawn at most: choose a figure.dpi of {most} (got {dpi}), a smaller "
            f"figure.width (got {inches:g} inches), or put rows on pages"
        )
    if layout.height > MAX_HEIGHT * POINTS:
        raise RequestError(
            f"figure: page {number} may be {layout.height / POINTS:,.0f} inches high, and no more "
            f"than {MAX_HEIGHT} can be opened: choose a smaller figure.width (got {inches:g} "
            "inches), or put rows on pages"
        )


def page_layout(page: Page, inches: float, left: float, top: float, aspect: float) -> Layout:
    width, columns = inches * POINTS, len(page.column_heads)
    side = (width - left - columns * GAP) / columns
    return Layout(width, left, top, side, aspect, len(page.panels))


def lines_high(count: int, more: float) -> float:
    """Points that so many lines take, and a part of one."""
    return LINE * (count + more)

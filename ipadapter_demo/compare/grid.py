"""A comparison as a grid: pages of cells under their heads, one request a cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ipadapter_demo.request import GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A picture to draw. `planned` is what will run, `effective_request`; `redrawn` is the seed
    that takes the place of its own."""

    page: int  # from 1, as row and column
    row: int
    column: int
    model: str
    planned: GenerateRequest
    redrawn: int | None = None

    @property
    def name(self) -> str:
        return f"p{self.page}-r{self.row}-c{self.column}"

    @property
    def request(self) -> GenerateRequest:
        return self.planned if self.redrawn is None else replace(self.planned, seed=self.redrawn)


@dataclass(frozen=True, slots=True)
class Given:
    """A picture that is shown beside the cells of `request`, not drawn: its reference or map."""

    name: str
    kind: Literal["reference", "structure"]
    model: str
    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class Page:
    """panels[row][column] under their heads; None where there is nothing to show."""

    label: str
    row_heads: tuple[str, ...]
    column_heads: tuple[str, ...]
    panels: tuple[tuple[Cell | Given | None, ...], ...]

    @property
    def cells(self) -> list[Cell]:
        return [panel for row in self.panels for panel in row if isinstance(panel, Cell)]


@dataclass(frozen=True, slots=True)
class Grid:
    pages: tuple[Page, ...]

    @property
    def cells(self) -> list[Cell]:
        return [cell for page in self.pages for cell in page.cells]

    def heads(self, cell: Cell) -> tuple[str, str, str]:
        """The heads of a cell's page, row and column."""
        page = self.pages[cell.page - 1]
        row, column = next(
            (r, c)
            for r, panels in enumerate(page.panels)
            for c, panel in enumerate(panels)
            if panel is cell
        )
        return page.label, page.row_heads[row], page.column_heads[column]

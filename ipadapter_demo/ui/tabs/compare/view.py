"""A comparison on the page: its grid as it fills, and its scores."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipadapter_demo.compare import Job
from ipadapter_demo.compare.grid import Cell, Page
from ipadapter_demo.compare.scores import MEASURES, Score, by_row
from ipadapter_demo.compare.text import csv_cell, printable
from ipadapter_demo.ui.run.addresses import file_url

ZOOM = (
    '<div class="zoom" role="group" aria-label="Zoom into all pictures">'
    '<button type="button" data-zoom="out" aria-label="Zoom out">−</button>'
    '<button type="button" data-zoom="whole" aria-label="Whole pictures">1:1</button>'
    '<button type="button" data-zoom="in" aria-label="Zoom in">+</button></div>'
)


@dataclass(frozen=True, slots=True)
class Expected:
    """Of the cells that are missing: those at work, and the seconds after which the next ones are
    there; None where it is not known yet."""

    at_once: int
    seconds: float | None


def grid_html(job: Job, chosen: tuple[str, ...] = (), expected: Expected | None = None) -> str:
    """Every page as a table of pictures under their heads. `expected` are cells at work."""
    cells = job.plan.grid.cells
    missing = [cell for cell in cells if not job.path(cell).exists() and not job.message(cell)]
    waiting = {} if expected is None else _waiting(missing, expected)
    pages = "".join(_page(job, page, chosen, waiting) for page in job.plan.grid.pages)
    return pages if len(missing) == len(cells) else ZOOM + pages


def _waiting(missing: Sequence[Cell], expected: Expected) -> dict[str, str]:
    """What stands in a cell until it is drawn, by its name."""
    found = {}
    for number, cell in enumerate(missing):
        turn = number // expected.at_once
        spinner = "" if turn else '<span class="spinner"></span>'
        seconds = expected.seconds
        left = "" if seconds is None else f'<span data-left="{seconds * (turn + 1):.0f}"></span>'
        found[cell.name] = spinner + left
    return found


def cell_choices(job: Job) -> list[tuple[str, str]]:
    """(what to call it, name) of every cell that is drawn."""
    return [(cell_label(job, cell), cell.name) for cell in job.finished()]


def cell_label(job: Job, cell: Cell) -> str:
    """Its heads."""
    heads = [printable(head)[:40] for head in job.plan.grid.heads(cell) if head]
    return " · ".join(heads) or cell.name


def cell_text(job: Job, cell: Cell) -> str:
    """The alternative text of its picture: heads, and prompt, λ and seed."""
    parts, request = [cell_label(job, cell)], cell.request
    if request.prompt and printable(request.prompt)[:40] not in parts[0]:
        parts.append(printable(request.prompt)[:200])
    if request.references and "λ" not in parts[0]:
        parts.append(f"λ = {request.image_scale:g}")
    return ", ".join((*parts, f"seed {request.seed}"))


def score_rows(job: Job, found: Sequence[Score]) -> list[list[str]]:
    """For a table: page, row, and every measure's mean and standard deviation."""
    rows = []
    for cell, spread in by_row(found):
        page, row, _ = map(csv_cell, job.plan.grid.heads(cell))
        rows.append(
            [
                page,
                row,
                *(
                    f"{spread[m][0]:.3f} ± {spread[m][1]:.3f}" if m in spread else "–"
                    for m in MEASURES
                ),
            ]
        )
    return rows


def _page(job: Job, page: Page, chosen: tuple[str, ...], waiting: Mapping[str, str]) -> str:
    heads = "".join(f'<th scope="col">{_text(head)}</th>' for head in page.column_heads)
    rows = "".join(
        f'<tr><th scope="row">{_text(head)}</th>'
        f"{''.join(_panel(job, panel, chosen, waiting) for panel in panels)}</tr>"
        for head, panels in zip(page.row_heads, page.panels, strict=True)
    )
    title = f"<caption>{_text(page.label)}</caption>" if page.label else ""
    return f'<table class="grid">{title}<thead><tr><td></td>{heads}</tr></thead>{rows}</table>'


def _panel(job: Job, panel: object, chosen: tuple[str, ...], waiting: Mapping[str, str]) -> str:
    if panel is None:
        return "<td></td>"
    path = job.path(panel)  # type: ignore[arg-type]
    if not isinstance(panel, Cell):
        kind = html.escape(getattr(panel, "kind", ""))
        return f'<td><div class="cell"><img src="{file_url(path)}" alt="{kind}"></div></td>'
    if not path.exists():
        inside = waiting.get(panel.name) or f"<span>{_text(job.message(panel))}</span>"
        return f'<td><div class="cell missing" data-missing="{panel.name}">{inside}</div></td>'
    label = html.escape(cell_text(job, panel))
    place = chosen.index(panel.name) if panel.name in chosen else None
    marked = "" if place is None else f" chosen-{place}"
    return (
        f'<td><button type="button" class="cell{marked}" data-cell="{panel.name}" '
        f'aria-pressed="{str(place is not None).lower()}" aria-label="{label}" title="{label}">'
        f'<img src="{file_url(path)}" alt=""></button></td>'
    )


def _text(text: str) -> str:
    return html.escape(" ".join(text.split())[:500])

"""A comparison on the page: the grid as it fills, and two of its cells against each other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from ipadapter_demo.compare import Job
from ipadapter_demo.compare.grid import Cell, Page
from ipadapter_demo.compare.scores import MEASURES, Score, by_row
from ipadapter_demo.compare.text import csv_cell, printable
from ipadapter_demo.ui.run.addresses import file_url

# Zooms into all pictures at once, at one point; tells which picture was clicked.
ON_LOAD = """
const view = element, set = (name, value) => view.style.setProperty(name, value);
let zoom = 1;
const aim = (event) => {
    const shape = event.target.getBoundingClientRect(), [x, y] = [event.clientX, event.clientY];
    const frame = event.target.closest('.cell').getBoundingClientRect();
    if (zoom === 1) {
        set('--x', `${100 * (x - frame.left) / frame.width}%`);
        set('--y', `${100 * (y - frame.top) / frame.height}%`);
    }
};
view.addEventListener('wheel', (event) => {
    if (!event.target.closest('.cell')) return;
    event.preventDefault();
    aim(event);
    zoom = Math.min(8, Math.max(1, zoom * (event.deltaY < 0 ? 1.25 : 0.8)));
    if (zoom < 1.05) zoom = 1;
    set('--zoom', zoom);
}, { passive: false });
view.addEventListener('dblclick', () => { zoom = 1; set('--zoom', 1); });
view.addEventListener('click', (event) => {
    const cell = event.target.closest('[data-cell]');
    if (cell) trigger('click', { cell: cell.dataset.cell });
});
"""


def grid_html(job: Job, chosen: tuple[str, ...] = ()) -> str:
    """Every page as a table of pictures under their heads."""
    return "".join(_page(job, page, chosen) for page in job.plan.grid.pages)


def flicker_html(one: Path, other: Path) -> str:
    """Two pictures that take turns in one place."""
    return (
        f'<div class="flicker"><img src="{file_url(one)}" alt="first">'
        f'<img src="{file_url(other)}" alt="second"></div>'
    )


def cell_choices(job: Job) -> list[tuple[str, str]]:
    """(what to call it, name) of every cell that is drawn."""
    return [
        (
            " · ".join(printable(head)[:40] for head in job.plan.grid.heads(cell) if head)
            or cell.name,
            cell.name,
        )
        for cell in job.finished()
    ]


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


def _page(job: Job, page: Page, chosen: tuple[str, ...]) -> str:
    heads = "".join(f"<th>{_text(head)}</th>" for head in page.column_heads)
    rows = "".join(
        f"<tr><th>{_text(head)}</th>{''.join(_panel(job, panel, chosen) for panel in panels)}</tr>"
        for head, panels in zip(page.row_heads, page.panels, strict=True)
    )
    title = f"<caption>{_text(page.label)}</caption>" if page.label else ""
    return f'<table class="grid">{title}<thead><tr><th></th>{heads}</tr></thead>{rows}</table>'


def _panel(job: Job, panel: object, chosen: tuple[str, ...]) -> str:
    if panel is None:
        return "<td></td>"
    path = job.path(panel)  # type: ignore[arg-type]
    if not isinstance(panel, Cell):
        return f'<td><div class="cell"><img src="{file_url(path)}" alt=""></div></td>'
    marked = f" chosen-{chosen.index(panel.name)}" if panel.name in chosen else ""
    if path.exists():
        seed = f"seed {panel.request.seed}"
        inside = f'<img src="{file_url(path)}" alt="{panel.name}" title="{panel.name}, {seed}">'
    else:
        inside = f"<span>{_text(job.message(panel))}</span>"
    return f'<td><div class="cell{marked}" data-cell="{panel.name}">{inside}</div></td>'


def _text(text: str) -> str:
    return html.escape(" ".join(text.split())[:500])

"""Two cells of a comparison against each other: a slider, and pictures that take turns."""

from __future__ import annotations

import html
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import gradio as gr

from ipadapter_demo.compare import Job
from ipadapter_demo.compare.grid import Cell
from ipadapter_demo.request import MAX_SEED
from ipadapter_demo.ui.run.addresses import file_url
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import Update
from ipadapter_demo.ui.tabs.compare.view import cell_text, grid_html

# Whoever asked for less motion gets none before a click. `element` is gradio's.
FLICKER = """
const quiet = matchMedia("(prefers-reduced-motion: reduce)");
let playing = !quiet.matches;
const show = () => {
    element.classList.toggle("playing", playing);
    const button = element.querySelector("button");
    if (button) button.textContent = playing ? "Pause" : "Play";
};
element.addEventListener("click", ({ target }) => {
    if (target.tagName !== "BUTTON") return;
    playing = !playing;
    show();
});
quiet.addEventListener("change", () => { playing = !quiet.matches; show(); });
watch("value", show);
show();
"""


def pair_inputs(
    job: gr.State, grid: gr.HTML
) -> tuple[gr.Dropdown, gr.Dropdown, gr.Number, gr.Button]:
    """Which two of the job's cells, chosen in the grid as well; another seed for the first, and
    the button that draws it."""
    with gr.Row():
        one = gr.Dropdown([], label="First picture", allow_custom_value=True, min_width=220)
        other = gr.Dropdown([], label="Second picture", allow_custom_value=True, min_width=220)
    with gr.Row(elem_classes="pair"):
        slider = gr.ImageSlider(
            label="Slider",
            format="png",
            interactive=False,
            height=300,
            buttons=["fullscreen"],
            min_width=240,
            elem_classes="filled",
        )
        flicker = gr.HTML(
            "", min_width=240, elem_classes="flicker", js_on_load=FLICKER, apply_default_css=False
        )
    with gr.Row(equal_height=True):
        seed = gr.Number(
            1, label="New seed for the first picture", precision=0, minimum=0, maximum=MAX_SEED
        )
        redraw = gr.Button("Redraw cell", size="md")

    def choose(job: Job | None, one: str, other: str, event: gr.EventData) -> Update:
        cell = event._data.get("cell") if isinstance(event._data, Mapping) else None
        with shown_errors():
            if job is None or cell not in {cell.name for cell in job.finished()}:
                return {}
        before = one if one != cell else other
        return {one_of_two: cell, other_of_two: before}  # the two that were clicked last

    def look(job: Job | None, one: str, other: str) -> Update:
        with shown_errors():
            cells = [] if job is None else _cells(job, one, other)
        chosen = tuple(name for name in (one, other) if name)
        marked = {} if job is None else {grid: grid_html(job, chosen)}
        if job is None or len(cells) < 2:
            return marked | {slider: None, flicker: ""}
        first, second = (str(job.path(cell)) for cell in cells)
        return marked | {slider: (first, second), flicker: flicker_html(job, *cells)}

    one_of_two, other_of_two, both = one, other, [one, other]
    grid.click(choose, inputs=[job, *both], outputs=both, **AT_ONCE)
    gr.on(
        [one.change, other.change],
        look,
        inputs=[job, *both],
        outputs=[slider, flicker, grid],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )
    return one, other, seed, redraw


def first_pair(job: Job, chosen: str = "") -> tuple[str, str]:
    """The names of neighbours of one row, first of all `chosen` where that is drawn; empty where
    nothing is."""
    cells = job.finished()
    names = [cell.name for cell in cells]
    if not names:
        return "", ""
    first = chosen if chosen in names else names[0]
    for one, other in pairwise(cells):
        if first in (one.name, other.name) and (one.page, one.row) == (other.page, other.row):
            return first, other.name if one.name == first else one.name
    return first, names[-1]


def flicker_html(job: Job, one: Cell, other: Cell) -> str:
    """Two pictures that take turns in one place, and a button to stop them."""
    pictures = "".join(_picture(job.path(cell), cell_text(job, cell)) for cell in (one, other))
    return f'<div class="turns">{pictures}</div><button type="button">Pause</button>'


def _picture(path: Path, label: str) -> str:
    return f'<img src="{file_url(path)}" alt="{html.escape(label)}">'


def _cells(job: Job, *names: str) -> list[Cell]:
    cells = {cell.name: cell for cell in job.finished()}
    return [cells[name] for name in names if name in cells]

"""The right column of the Compare tab: the grid as it fills, and two of its cells side by side."""

from __future__ import annotations

import html
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from ipadapter_demo.compare import ComparisonWarning, Done, Job, write_bundle
from ipadapter_demo.compare.bundle import BUNDLE
from ipadapter_demo.compare.kept import Kept
from ipadapter_demo.request import MAX_SEED
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.status import status_line
from ipadapter_demo.ui.run.tab import Update
from ipadapter_demo.ui.run.updates import LOOK_AGAIN, lasting, progress, tell
from ipadapter_demo.ui.tabs.compare import votes
from ipadapter_demo.ui.tabs.compare.view import (
    ON_LOAD,
    cell_choices,
    flicker_html,
    grid_html,
    score_rows,
)

DAY = 86_400
KEPT = Kept()


@dataclass(frozen=True, slots=True)
class Shown:
    """The right column."""

    job: gr.State
    status: gr.HTML
    grid: gr.HTML
    after: gr.Column
    table: gr.Dataframe
    files: gr.File
    one: gr.Dropdown
    other: gr.Dropdown


def compare_results() -> tuple[Shown, gr.Number, gr.Button]:
    """The grid, and another seed for the first of the two chosen pictures."""
    job = gr.State(None, time_to_live=DAY, delete_callback=forget)
    status = status_line()
    grid = gr.HTML("", elem_classes="comparison", js_on_load=ON_LOAD)
    with gr.Column(visible=False) as after:
        gr.HTML(
            "Scroll over a picture to look closer at that place in all of them, double-click "
            "to go back. Click two to hold them against each other.",
            elem_classes="status",
        )
        with gr.Row():
            one = gr.Dropdown([], label="First picture", allow_custom_value=True, min_width=160)
            other = gr.Dropdown([], label="Second picture", allow_custom_value=True, min_width=160)
        with gr.Row():
            slider = gr.ImageSlider(
                label="Slider",
                format="png",
                interactive=False,
                height=300,
                buttons=["fullscreen"],
                min_width=200,
                elem_classes="filled",
            )
            flicker = gr.HTML("", min_width=200)
        with gr.Row(equal_height=True):
            seed = gr.Number(
                1,
                label="New seed for the first picture",
                precision=0,
                minimum=0,
                maximum=MAX_SEED,
            )
            redraw = gr.Button("Redraw cell", size="md")
        files = gr.File(label="Bundle, figures, scores", file_count="multiple", interactive=False)
        with gr.Accordion("Scores", open=False):
            table = gr.Dataframe(
                headers=["page", "row", "CLIP-I", "CLIP-T", "attributes kept"],
                interactive=False,
                label="Means of the rows, ± their standard deviations",
            )
        votes.build(job)
    shown = Shown(job, status, grid, after, table, files, one, other)
    _look_at_two(shown, slider, flicker)
    return shown, seed, redraw


def _look_at_two(shown: Shown, slider: gr.ImageSlider, flicker: gr.HTML) -> None:
    """Slider and flicker between the two chosen cells."""

    def choose(job: Job | None, one: str, other: str, event: gr.EventData) -> Update:
        cell = event._data.get("cell") if isinstance(event._data, Mapping) else None
        with shown_errors():
            if job is None or cell not in {cell.name for cell in job.finished()}:
                return {}
        before = one if one != cell else other
        return {shown.one: cell, shown.other: before}  # the two that were clicked last

    def look(job: Job | None, one: str, other: str) -> Update:
        with shown_errors():
            paths = _paths(job, one, other)
        chosen = tuple(name for name in (one, other) if name)
        grid = {} if job is None else {shown.grid: grid_html(job, chosen)}
        if len(paths) < 2:
            return grid | {slider: None, flicker: ""}
        first, second = paths
        return grid | {slider: (str(first), str(second)), flicker: flicker_html(first, second)}

    both = [shown.one, shown.other]
    shown.grid.click(choose, inputs=[shown.job, *both], outputs=both, **AT_ONCE)
    gr.on(
        [shown.one.change, shown.other.change],
        look,
        inputs=[shown.job, *both],
        outputs=[slider, flicker, shown.grid],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )


def forget(job: Job | None) -> None:
    """A visitor's pictures do not outlast the visit."""
    if job is not None:
        shutil.rmtree(job.folder, ignore_errors=True)


def _paths(job: Job | None, *names: str) -> list[Path]:
    if job is None:
        return []
    cells = {cell.name: cell for cell in job.finished()}
    return [job.path(cells[name]) for name in names if name in cells]


def run(shown: Shown, job: Job, chosen: str = "") -> Iterator[Update]:
    """The grid as it fills; then what can be taken home. `chosen` is the cell to look at first."""
    with KEPT.at_work(job):
        yield from _run(shown, job, chosen)


def _run(shown: Shown, job: Job, chosen: str) -> Iterator[Update]:
    job.save_given()
    before, began = len(job.finished()), time.monotonic()
    yield {shown.job: job, shown.grid: grid_html(job), shown.status: so_far(job, before, 0.0)}
    warnings: list[str] = []
    noted: set[str] = set()
    for event in job.running(LOOK_AGAIN):
        if event is None:  # who has left is missed here
            yield {}
            continue
        warnings += [event.message] if isinstance(event, ComparisonWarning) else []
        new = set(event.warnings) - noted if isinstance(event, Done) else set()
        tell(sorted(new))
        noted |= new
        yield {
            shown.grid: grid_html(job),
            shown.status: so_far(job, before, time.monotonic() - began),
        }
    yield finished(shown, job, chosen, warnings)


def so_far(job: Job, before: int, seconds: float) -> str:
    """Status of a comparison: its cells, of which `before` were there `seconds` ago, and the time
    that the rest may take."""
    done, total = len(job.finished()), len(job.plan.grid.cells)
    said, others = progress(done, total, "cell"), len(job.plan.manager.line.turns)
    if done > before:
        said += f", about {lasting(seconds / (done - before) * (total - done))} to go"
    if others:
        said += f". {others} in line for a single picture come first."
    return said


def finished(shown: Shown, job: Job, chosen: str = "", warnings: Sequence[str] = ()) -> Update:
    """The finished cells, to look at and to download, with their warnings."""
    published = write_bundle(job)
    choices = cell_choices(job)
    names = [name for _, name in choices]
    two = [chosen if chosen in names else (names or [""])[0], (names or [""])[-1]]
    total = len(job.plan.grid.cells)
    missing = "" if len(names) == total else " Compare goes on from here."
    return {
        shown.status: "<br>".join(
            map(
                html.escape,
                (f"{len(names)} of {total} cells.{missing}", *warnings, *published.warnings),
            )
        ),
        shown.grid: grid_html(job, tuple(two)),
        shown.after: gr.Column(visible=bool(names)),
        shown.table: score_rows(job, published.scores),
        shown.files: [str(path) for path in files_of(job)],
        shown.one: gr.Dropdown(choices, value=two[0]),
        shown.other: gr.Dropdown(choices, value=two[1]),
    }


def files_of(job: Job) -> list[Path]:
    """What can be taken home: bundle, figures and scores."""
    return [
        path
        for path in sorted(job.folder.glob("*.*"))
        if path.name == BUNDLE or path.stem.startswith(("figure", "scores"))
    ]

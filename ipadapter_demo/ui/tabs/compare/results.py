"""The right column of the Compare tab: the grid as it fills, and what can be done with it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import gradio as gr

from ipadapter_demo.compare import ComparisonWarning, Done, Job, write_bundle
from ipadapter_demo.compare.kept import Kept
from ipadapter_demo.ui.run.status import status_line
from ipadapter_demo.ui.run.tab import Update, Widgets
from ipadapter_demo.ui.run.updates import (
    LOOK_AGAIN,
    lasting,
    notes_of,
    now_and_then,
    progress,
)
from ipadapter_demo.ui.tabs.compare import votes
from ipadapter_demo.ui.tabs.compare.downloads import downloads_html
from ipadapter_demo.ui.tabs.compare.grid_script import ON_LOAD
from ipadapter_demo.ui.tabs.compare.pair import first_pair, pair_inputs
from ipadapter_demo.ui.tabs.compare.view import Expected, cell_choices, grid_html, score_rows

DAY = 86_400
KEPT = Kept()
END = 60  # seconds after which a run that was stopped is no longer waited for
HINT = (
    "Click two pictures to hold them against each other. Two fingers zoom into all of them. "
    "<span class='keys'>Ctrl or ⌘ with the wheel zooms, too, and so do the keys + and −.</span>"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """The right column."""

    job: gr.State
    status: gr.HTML
    grid: gr.HTML
    after: gr.Column
    table: gr.Dataframe
    files: gr.HTML
    one: gr.Dropdown
    other: gr.Dropdown
    voted: gr.Dropdown
    against: gr.Dropdown


def compare_results() -> tuple[Shown, gr.Number, gr.Button]:
    """The grid, and another seed for the first of the two chosen pictures."""
    job = gr.State(None, time_to_live=DAY, delete_callback=forget)
    status = status_line()
    grid = gr.HTML("", elem_classes="comparison", js_on_load=ON_LOAD, apply_default_css=False)
    with gr.Column(visible=False) as after:
        gr.HTML(HINT, elem_classes="status")
        one, other, seed, redraw = pair_inputs(job, grid)
        files = gr.HTML("", elem_classes="downloads", apply_default_css=False)
        with gr.Accordion("Scores", open=False):
            table = gr.Dataframe(
                headers=["page", "row", "CLIP-I", "CLIP-T", "attributes kept"],
                interactive=False,
                label="Means of the rows, ± their standard deviations",
            )
        voted, against = votes.build(job)
    shown = Shown(job, status, grid, after, table, files, one, other, voted, against)
    return shown, seed, redraw


def forget(job: Job | None) -> None:
    """A visitor's pictures do not outlast the visit."""
    if job is not None:
        shutil.rmtree(job.folder, ignore_errors=True)


def run(
    shown: Shown, inputs: Widgets, job: Job, chosen: str = "", each: float | None = None
) -> Iterator[Update]:
    """The grid as it fills; then what can be taken home. Fields are called by the labels of
    `inputs`; `chosen` is the cell to look at first; `each` takes about as many seconds."""
    with KEPT.at_work(job):
        yield from _run(shown, inputs, job, chosen, each)


def _run(
    shown: Shown, inputs: Widgets, job: Job, chosen: str, each: float | None
) -> Iterator[Update]:
    job.save_given()
    before, began = len(job.finished()), time.monotonic()
    warnings: dict[str, None] = {}  # each once, in order
    at_once = job.plan.share
    # of another comparison, which is gone
    gone: Update = {} if before else {shown.after: gr.Column(visible=False), shown.files: ""}
    yield gone | {
        shown.job: job,
        shown.grid: grid_html(job, expected=Expected(at_once, each and each * at_once)),
        shown.status: so_far(job, each),
    }
    due = now_and_then()
    for event in job.running(LOOK_AGAIN):
        if event is None:
            if due():
                yield {}  # who has left, or has pressed Stop, is missed here
            continue
        if isinstance(event, ComparisonWarning):
            warnings[event.message] = None
        elif isinstance(event, Done):
            warnings |= dict.fromkeys(event.warnings)
        done = len(job.finished()) - before
        each = (time.monotonic() - began) / done if done > 0 else each
        yield {
            shown.grid: grid_html(job, expected=Expected(at_once, each and each * at_once)),
            shown.status: so_far(job, each) + notes_of(warnings, inputs),
        }
    yield finished(shown, inputs, job, chosen, warnings)


def so_far(job: Job, each: float | None) -> str:
    """Status of a comparison: its cells, and the time that the rest may take."""
    done, total = len(job.finished()), len(job.plan.grid.cells)
    said, others = progress(done, total, "cell"), len(job.plan.manager.line.turns)
    if each is not None and done < total:
        said += f", about {lasting(each * (total - done))} left"
    if others:
        said += f". {others} in line for a single picture come first."
    return said


def stopped(shown: Shown, inputs: Widgets, job: Job | None) -> Iterator[Update]:
    """After Stop: how many cells there are, once none is added any more, then what can be taken
    home."""
    if job is None:
        yield {shown.status: "Stopped before the first cell."}
        return
    job.idle.wait(END)
    yield {shown.status: counted(job), shown.grid: grid_html(job, first_pair(job))}
    yield finished(shown, inputs, job)


def counted(job: Job) -> str:
    done, total = len(job.finished()), len(job.plan.grid.cells)
    return f"{done} of {total} cells." + ("" if done == total else " Compare goes on from here.")


def finished(
    shown: Shown, inputs: Widgets, job: Job, chosen: str = "", warnings: Iterable[str] = ()
) -> Update:
    """The finished cells, to look at and to download, with their warnings."""
    published = write_bundle(job)
    two, columns = first_pair(job, chosen), votes.column_choices(job)
    choices = cell_choices(job)
    return {
        shown.status: counted(job) + notes_of((*warnings, *published.warnings), inputs),
        shown.grid: grid_html(job, two),
        shown.after: gr.Column(visible=bool(choices)),
        shown.table: score_rows(job, published.scores),
        shown.files: downloads_html(job),
        shown.one: gr.Dropdown(choices, value=two[0]),
        shown.other: gr.Dropdown(choices, value=two[1]),
        shown.voted: gr.Dropdown(columns, value=columns[0][1] if columns else None),
        shown.against: gr.Dropdown(columns, value=columns[-1][1] if columns else None),
    }

"""Rows and columns of pictures that differ in one thing each, to look at and to publish."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ipadapter_demo.checks import integer
from ipadapter_demo.compare import Cost, Job, Pace, Plan, Spec
from ipadapter_demo.compare.job import spec_text
from ipadapter_demo.compare.spec import numbered
from ipadapter_demo.errors import RequestError
from ipadapter_demo.files import write_file
from ipadapter_demo.imaging import read_bytes
from ipadapter_demo.request import MAX_SEED
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors, with_errors_said
from ipadapter_demo.ui.run.labels import labelled, with_labels
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.say import PROBLEM, escaped
from ipadapter_demo.ui.run.tab import Buttons, Update
from ipadapter_demo.ui.run.updates import progress
from ipadapter_demo.ui.run.uploads import path_of_upload
from ipadapter_demo.ui.run.visitor import this_visitor
from ipadapter_demo.ui.tabs.compare.api import add_compare_api
from ipadapter_demo.ui.tabs.compare.form import spec_from_form
from ipadapter_demo.ui.tabs.compare.inputs import compare_inputs, compare_settings
from ipadapter_demo.ui.tabs.compare.presets import (
    fill_by_presets,
    follow_axes,
    follow_model,
    preset_buttons,
)
from ipadapter_demo.ui.tabs.compare.results import Shown, compare_results, forget, run, stopped

# A queue of its own: a long comparison holds up no single picture, see serving/manager.py.
# Comparisons with one model are drawn in the order of their cells' beginning. How many there are is
# the manager's business.
QUEUE: dict[str, object] = {"concurrency_id": "compare", "concurrency_limit": None}

# On a phone the grid is far below the button.
BEGIN = """() => {
    const grid = document.querySelector(".comparison");
    grid.scrollIntoView({ behavior: "smooth", block: "nearest" });
    return [];
}"""
# An error of before does not stand beside what was changed since. Change events come late, and some
# where nothing has changed: the fields of an opened tab send them. Only other values count.
GIVEN = "(...values) => { window.comparedValues = JSON.stringify(values); }"
WITHOUT_ERROR = """(status, ...values) => {
    const stays = !status?.startsWith('PROBLEM')
        || JSON.stringify(values) === window.comparedValues;
    return [stays ? { __type__: "update" } : ""];
}""".replace("PROBLEM", PROBLEM)
STOPPING = "() => 'Stopping after this step: finished cells stay.'"


@dataclass(frozen=True, slots=True)
class CompareTab:
    """The widgets that a manifest fills."""

    pictures: gr.Gallery
    written: gr.Textbox
    accordion: gr.Accordion

    @property
    def widgets(self) -> list[gr.Component]:
        return [self.pictures, self.written, self.accordion]

    def shown(self, spec: Spec) -> Update:
        """The widgets' values for a comparison."""
        folder = Path(get_upload_folder()) / secrets.token_hex(16)
        names = dict(zip(spec.files, numbered(spec.files), strict=True))
        for name, content in spec.files.items():
            write_file(folder / names[name], content)
        return {
            self.pictures: [str(folder / name) for name in names.values()],
            self.written: spec_text(spec.with_files_named(names.__getitem__)),
            self.accordion: gr.Accordion(open=True),
        }


def build(manager: ModelManager, model: ModelInput, tab: gr.Tab) -> CompareTab:
    pace = Pace()
    with gr.Row(elem_classes=["tab", "wide"]):
        with gr.Column(elem_classes="inputs"):
            presets = preset_buttons(manager, model)
            inputs = compare_inputs(manager)
        with gr.Column(elem_classes="outcome"):
            with gr.Row(elem_classes="run"):
                start = gr.Button("Compare", variant="primary", scale=3, elem_classes="generate")
                stop = gr.Button(
                    "Stop", interactive=False, scale=1, min_width=80, elem_classes="halt"
                )
            cost = gr.HTML("", elem_classes="status")
            shown, seed, redraw = compare_results()
        with gr.Column(elem_classes="settings"):
            settings, written, accordion = compare_settings(manager)
    inputs |= settings | {"model": model.chosen, "written": written}
    fill_by_presets(manager, model, presets, inputs)
    follow_axes(manager, model, inputs)
    follow_model(manager, model, inputs)

    def spec_of(values: Mapping[str, Any]) -> Spec:
        form = dict(values)
        files = _files(form.pop("pictures"))
        spec = spec_from_form(form.pop("written"), form, list(files), _reader(files))
        return spec if spec.comparison.model else spec.changed(model=form["model"])

    def status(text: str) -> Update:
        return {shown.status: text}

    def estimate(**values: Any) -> str:
        with shown_errors():
            try:
                spec = spec_of(values)
                wanted = spec.comparison.model
                if wanted in manager.models and manager.info_of(wanted) is None:
                    return escaped(f"{wanted} is loaded when Compare is clicked.")
                return escaped(pace.cost(Plan(spec, manager)))
            except RequestError as error:  # said when Compare is clicked; this is only a hint
                return escaped(f"Not ready: {labelled(str(error), inputs)}")

    def compared(job: Job | None, **values: Any) -> Iterator[Update]:
        def drawn() -> Iterator[Update]:
            yield {shown.status: progress(0, 1)}  # reading the files, and perhaps a model
            with manager.comparison(this_visitor()):
                plan = Plan(spec_of(values), manager)
                yield from run(shown, inputs, _job(plan, job), each=_each(pace.cost(plan)))

        yield from with_errors_said(with_labels(drawn(), inputs), status)

    def redrawn(job: Job | None, cell: str, number: float | None) -> Iterator[Update]:
        def drawn() -> Iterator[Update]:
            if job is None or not cell:
                raise RequestError("cell is missing: compare something, then choose a cell")
            spec, other = job.plan.spec, integer("seed", number, 0, MAX_SEED)
            spec = spec.changed(redraw=spec.comparison.redraw | {cell: other})
            with manager.comparison(this_visitor()):
                yield from run(shown, inputs, Job(Plan(spec, manager), job.folder), cell)

        yield from with_errors_said(with_labels(drawn(), inputs | {"seed": seed}), status)

    def as_far_as_it_is(job: Job | None) -> Iterator[Update]:
        with shown_errors():
            yield from stopped(shown, inputs, job)

    every = {"job": shown.job} | inputs
    outputs = [getattr(shown, name) for name in Shown.__slots__]
    hidden: dict[str, object] = {"show_progress": "hidden", "api_visibility": "private"}
    private = hidden | QUEUE
    changed = partial(gr.on, [tab.select, *(widget.change for widget in inputs.values())])
    endpoint(changed, estimate, inputs, cost, trigger_mode="always_last", **hidden)
    given = list(inputs.values())
    gr.on([start.click, redraw.click], None, js=GIVEN, inputs=given, **AT_ONCE)
    with_status = [shown.status, *given]
    changed(None, js=WITHOUT_ERROR, inputs=with_status, outputs=shown.status, **AT_ONCE)
    add_compare_api(manager, inputs, spec_of, QUEUE)
    buttons = Buttons(start, stop, also=redraw)
    began = start.click(buttons.busy, outputs=buttons.all, js=BEGIN, **AT_ONCE)
    running = endpoint(began.then, compared, every, outputs, **private)
    begun = redraw.click(buttons.busy, outputs=buttons.all, **AT_ONCE)
    again = begun.then(redrawn, inputs=[shown.job, shown.one, seed], outputs=outputs, **private)
    for drawn in (running, again):
        drawn.then(buttons.idle, outputs=buttons.all, **AT_ONCE)
        drawn.failure(buttons.idle, outputs=buttons.all, **AT_ONCE)
    stop.click(None, js=STOPPING, outputs=shown.status, **AT_ONCE)
    halted = stop.click(None, cancels=[running, again])
    halted.then(as_far_as_it_is, inputs=shown.job, outputs=outputs, **private)
    return CompareTab(inputs["pictures"], written, accordion)


def _each(cost: Cost) -> float | None:
    """Seconds of a cell that can be drawn, where all are known."""
    drawn = cost.cells - cost.refused
    return None if cost.unknown or not drawn else cost.seconds / drawn


def _files(gallery: Any) -> dict[str, Path]:  # noqa: ANN401 - the raw value of a gallery
    """The uploaded files by name; further ones of a name are numbered, none is lost."""
    names, paths = [], []
    for item in gallery or ():
        upload = item.get("image", item) if isinstance(item, Mapping) else item
        paths.append(path_of_upload(upload, "pictures"))
        names.append(str(upload.get("orig_name") or paths[-1].name))
    return dict(zip(numbered(names), paths, strict=True))


def _reader(files: Mapping[str, Path]) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        if Path(name).name not in files:
            known = ", ".join(files) or "none"
            raise RequestError(
                f"{name:.80} is not among the pictures ({known:.200}): upload it first"
            )
        return read_bytes(files[Path(name).name], name)

    return read


def _job(plan: Plan, before: Job | None) -> Job:
    """The one before, if it is the same comparison: what is finished stays. Else that goes."""
    if before is not None:
        spec = plan.spec.changed(redraw={})
        if before.is_kept and before.plan.spec.changed(redraw={}) == spec:
            return Job(Plan(before.plan.spec, plan.manager), before.folder)
        forget(before)
    return Job(plan, Path(get_upload_folder()) / secrets.token_hex(16))

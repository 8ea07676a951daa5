"""Rows and columns of pictures that differ in one thing each, to look at and to publish."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ipadapter_demo.compare import Failed, Job, Pace, Plan, Spec, scores, write_bundle
from ipadapter_demo.compare.bundle import BUNDLE
from ipadapter_demo.compare.job import spec_text, write
from ipadapter_demo.compare.spec import with_files_named
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_bytes
from ipadapter_demo.pipeline import Studio
from ipadapter_demo.request import MAX_SEED, MAX_WEIGHT, SAMPLERS
from ipadapter_demo.ui import compare_votes, components
from ipadapter_demo.ui.compare_form import AXES, spec_from_form
from ipadapter_demo.ui.compare_view import ON_LOAD, cell_choices, flicker_html, grid_html
from ipadapter_demo.ui.examples import FOLDER
from ipadapter_demo.ui.running import AT_ONCE, Buttons, Widgets, shown_errors
from ipadapter_demo.ui.slots import structure_choices
from ipadapter_demo.ui.updates import progress
from ipadapter_demo.ui.uploads import path_of_upload

# A line of its own: a long comparison holds up no single picture, see pipeline/studio.py.
LANE: dict[str, Any] = {"concurrency_id": "compare", "concurrency_limit": 2}
DAY = 86_400
BESIDE = [("the reference", "reference"), ("the map of the structure", "structure"),
          ("λ = 0", "no_image"), ("the text alone", "text_only")]
EXAMPLE = ("red-sphere.png", "blue-cone.png", "checker-cube.png")


@dataclass(frozen=True, slots=True)
class CompareTab:
    """What a manifest fills."""

    pictures: gr.Gallery
    written: gr.Textbox

    def shown(self, spec: Spec) -> dict[gr.Component, Any]:
        """The widgets' values for a comparison."""
        folder = Path(get_upload_folder()) / secrets.token_hex(16)
        for name, content in spec.files.items():
            write(folder / Path(name).name, content)
        document = with_files_named(spec.document, lambda name: Path(name).name)
        names = dict.fromkeys(Path(name).name for name in spec.files)
        return {self.pictures: [str(folder / name) for name in names],
                self.written: spec_text(replace(spec, document=document))}


@dataclass(frozen=True, slots=True)
class _Shown:
    """The right column."""

    job: gr.State
    status: gr.HTML
    grid: gr.HTML
    after: gr.Column
    table: gr.Dataframe
    files: gr.File
    one: gr.Dropdown
    other: gr.Dropdown


def build(studio: Studio, model: gr.Dropdown) -> CompareTab:
    pace = Pace()
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            inputs, written = _inputs(studio)
            cost = gr.HTML("", elem_classes="status")
            with gr.Row():
                start = gr.Button("Compare", variant="primary", scale=3)
                stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80)
        with gr.Column(scale=3, min_width=320):
            shown, seed, redraw = _results()
    inputs |= {"model": model, "written": written}

    def plan_of(values: Mapping[str, Any]) -> Plan:
        form = dict(values)
        files = _files(form.pop("pictures"))
        spec = spec_from_form(form.pop("written"), form, list(files), _reader(files))
        return Plan(spec, studio)

    def estimate(**values: Any) -> str:
        with shown_errors():
            try:
                return str(pace.cost(plan_of(values)))
            except RequestError as error:  # said when Compare is clicked; this is only a hint
                return f"Not ready: {error}" if values["pictures"] or values["written"] else ""

    def compare(job: Job | None, **values: Any) -> Iterator[dict[gr.Component, Any]]:
        with shown_errors():
            yield from _run(shown, _job(plan_of(values), job))

    def redrawn(job: Job | None, cell: str, seed: float) -> Iterator[dict[gr.Component, Any]]:
        with shown_errors():
            if job is None or not cell:
                raise RequestError("cell is missing: compare something, then choose a cell")
            document = job.plan.spec.document
            changed = document | {"redraw": document.get("redraw", {}) | {cell: int(seed)}}
            plan = Plan(Spec(changed, job.plan.spec.files), studio, job.plan.batch)
            yield from _run(shown, Job(plan, job.folder))

    outputs = [getattr(shown, name) for name in _Shown.__slots__]
    for widget in inputs.values():
        widget.change(_by_name(estimate, inputs), inputs=list(inputs.values()), outputs=cost,
                      preprocess=False, show_progress="hidden", trigger_mode="always_last",
                      api_visibility="private", **LANE)
    buttons = Buttons(start, stop)
    running = gr.on([start.click], buttons.busy, outputs=[start, stop], **AT_ONCE).then(
        _by_name(compare, {"job": shown.job} | inputs),
        inputs=[shown.job, *inputs.values()], outputs=outputs, preprocess=False,
        show_progress="hidden", api_visibility="private", **LANE)
    again = redraw.click(redrawn, inputs=[shown.job, shown.one, seed], outputs=outputs,
                         show_progress="hidden", api_visibility="private", **LANE)
    for event in (running, again):
        event.then(buttons.idle, outputs=[start, stop], **AT_ONCE)
        event.failure(buttons.idle, outputs=[start, stop], **AT_ONCE)
    said = "() => 'Stopped. What is finished stays; Compare goes on from here.'"
    stop.click(None, cancels=[running, again]).then(None, js=said, outputs=shown.status, **AT_ONCE)
    return CompareTab(inputs["pictures"], written)


def _by_name(handler: Callable[..., Any], inputs: Mapping[str, Any]) -> Callable[..., Any]:
    """gradio gives values in order; a generator stays one."""
    names = list(inputs)
    if handler.__name__ == "estimate":
        return lambda *values: handler(**dict(zip(names, values, strict=True)))

    def generator(*values: Any) -> Iterator[Any]:
        yield from handler(**dict(zip(names, values, strict=True)))

    return generator


def _inputs(studio: Studio) -> tuple[Widgets, gr.Textbox]:
    info, inputs = studio.info, {}
    inputs["pictures"] = gr.Gallery(
        [str(FOLDER / name) for name in EXAMPLE if (FOLDER / name).is_file()],
        label="Pictures", interactive=True, columns=4, height=190, object_fit="contain",
        sources=["upload"], file_types=["image"], format="png", buttons=[],
    )
    for side, axis, text in (("columns", "image_scale", "0:1.2:0.2"), ("rows", "reference", ""),
                             ("pages", "", "")):
        with gr.Row():
            inputs[f"{side}_axis"] = gr.Dropdown(
                [(label, name) for name, label in AXES.items()], value=axis,
                label=side.title(), scale=2, min_width=160)
            inputs[f"{side}_values"] = gr.Textbox(
                text, label="Values", placeholder="0:1.2:0.2, or with commas, or one a line",
                lines=1, max_lines=8, scale=3, min_width=160)
    inputs["beside"] = gr.CheckboxGroup(BESIDE, value=["reference"], label="Beside them")
    inputs["prompt"] = gr.Textbox("", label="Prompt", info=components.words_known(info),
                                  lines=1, max_lines=4)
    with gr.Row():
        inputs["steps"] = components.slider(1, 50, info.steps, 1, "Steps")
        inputs["guidance"] = components.slider(1, 15, info.guidance, 0.5, "Guidance")
    with gr.Accordion("Advanced", open=False):
        with gr.Row():
            inputs["image_scale"] = components.slider(0, 1.5, info.image_scale, 0.05,
                                                      "Image strength λ")
            inputs["adapter"] = gr.Dropdown(
                components.adapter_choices(info), value=info.adapters[0], label="Adapter",
                visible=len(info.adapters) > 1)
        with gr.Row():
            inputs["seed"] = gr.Number(0, label="Seed", minimum=0, maximum=MAX_SEED, precision=0)
            inputs["sampler"] = gr.Dropdown(list(SAMPLERS), value=SAMPLERS[0], label="Sampler")
        inputs["negative_prompt"] = gr.Textbox("", label="Negative prompt")
        with gr.Row():
            choices = structure_choices(info)
            inputs["structure"] = gr.Textbox("", label="Structure of",
                                             placeholder="name of a picture above")
            inputs["kind"] = gr.Dropdown(choices, value=choices[0][1] if choices else None,
                                         label="Keep")
            inputs["structure_weight"] = components.slider(0, MAX_WEIGHT, 1.0, 0.05, "How strictly")
    with gr.Accordion("Figure", open=False):
        inputs["title"] = gr.Textbox("", label="Title", info="for the caption", max_lines=2)
        with gr.Row():
            inputs["width"] = gr.Radio([("one column", "single"), ("two columns", "double")],
                                       value="double", label="Width")
            inputs["dpi"] = gr.Number(300, label="Dots an inch", precision=0)
        inputs["zoom"] = gr.Textbox("", label="Show a part larger in every picture",
                                    placeholder="left, top, width, height: 0.4, 0.4, 0.2, 0.2")
    with gr.Accordion("Spec", open=False):
        written = gr.Textbox(
            "", label="YAML or JSON", lines=6, max_lines=30,
            info="what is written here is compared instead of the form above; it names the "
            "pictures above by their file names")
    return inputs, written


def _results() -> tuple[_Shown, gr.Number, gr.Button]:
    """What is shown, and another seed for the first of the two pictures that are looked at."""
    job = gr.State(None, time_to_live=DAY)
    status = gr.HTML("", elem_classes="status")
    grid = gr.HTML("", elem_classes="comparison", js_on_load=ON_LOAD)
    with gr.Column(visible=False) as after:
        gr.HTML("Scroll over a picture to look closer at that place in all of them, double-click "
                "to go back. Click two to hold them against each other.", elem_classes="status")
        with gr.Row():
            one = gr.Dropdown([], label="First picture", allow_custom_value=True, min_width=160)
            other = gr.Dropdown([], label="Second picture", allow_custom_value=True, min_width=160)
        with gr.Row():
            slider = gr.ImageSlider(label="Slide", format="png", interactive=False, height=300,
                                    buttons=["fullscreen"], min_width=200, elem_classes="filled")
            flicker = gr.HTML("", min_width=200)
        with gr.Row(equal_height=True):
            seed = gr.Number(1, label="Another seed for the first picture", precision=0,
                             minimum=0, maximum=MAX_SEED)
            redraw = gr.Button("Draw it again", size="md")
        files = gr.File(label="Bundle, figures, numbers", file_count="multiple",
                        interactive=False)
        with gr.Accordion("Numbers: an aid, not a verdict", open=False):
            table = gr.Dataframe(
                headers=["page", "row", "CLIP-I", "CLIP-T", "attributes kept"], interactive=False,
                label="Means of the rows, ± their standard deviations")
        compare_votes.build(job)
    shown = _Shown(job, status, grid, after, table, files, one, other)
    _look_at_two(shown, slider, flicker)
    return shown, seed, redraw


def _look_at_two(shown: _Shown, slider: gr.ImageSlider, flicker: gr.HTML) -> None:
    """Slider and flicker between the two chosen cells."""

    def choose(job: Job | None, one: str, other: str, event: gr.EventData) -> tuple[Any, ...]:
        cell = event._data.get("cell") if isinstance(event._data, Mapping) else None
        if job is None or cell not in {cell.name for cell in job.finished()}:
            return gr.skip(), gr.skip()
        return (cell, other if other != cell else None) if not one or other else (one, cell)

    def look(job: Job | None, one: str, other: str) -> tuple[Any, ...]:
        paths = _paths(job, one, other)
        chosen = tuple(name for name in (one, other) if name)
        grid = grid_html(job, chosen) if job is not None else gr.skip()
        if len(paths) < 2:
            return None, "", grid
        return (str(paths[0]), str(paths[1])), flicker_html(*paths), grid

    both = [shown.one, shown.other]
    shown.grid.click(choose, inputs=[shown.job, *both], outputs=both, **AT_ONCE)
    gr.on([shown.one.change, shown.other.change], look, inputs=[shown.job, *both],
          outputs=[slider, flicker, shown.grid], show_progress="hidden",
          api_visibility="private", queue=False)


def _paths(job: Job | None, *names: str) -> list[Path]:
    if job is None:
        return []
    cells = {cell.name: cell for cell in job.finished()}
    return [job.path(cells[name]) for name in names if name in cells]


def _files(gallery: Any) -> dict[str, Path]:
    """The uploaded files by name; of two with one name the later is the one that is meant."""
    found = {}
    for item in gallery or ():
        upload = item.get("image", item) if isinstance(item, Mapping) else item
        path = path_of_upload(upload, "pictures")
        name = upload.get("orig_name") or path.name
        found[Path(str(name)).name] = path
    return found


def _reader(files: Mapping[str, Path]) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        if Path(name).name not in files:
            raise RequestError(f"{name:.80} is not among the pictures: upload it first")
        return read_bytes(files[Path(name).name], name)

    return read


def _job(plan: Plan, before: Job | None) -> Job:
    """The one before, if it is the same comparison: what is finished stays."""
    if before is not None:
        known = before.plan.spec.document | {"redraw": 0}
        if plan.spec.document | {"redraw": 0} == known:
            return Job(Plan(before.plan.spec, plan.studio, plan.batch), before.folder)
    return Job(plan, Path(get_upload_folder()) / secrets.token_hex(16))


def _run(shown: _Shown, job: Job) -> Iterator[dict[gr.Component, Any]]:
    """The grid as it fills; then what can be taken home."""
    job.save_given()
    total = len(job.plan.grid.cells)
    yield {shown.job: job, shown.grid: grid_html(job),
           shown.status: progress(len(job.finished()), total, "cell")}
    failed = 0
    for event in job.run():
        failed += isinstance(event, Failed)
        yield {shown.grid: grid_html(job),
               shown.status: progress(len(job.finished()), total, "cell")}
    found = scores(job)
    write_bundle(job, found)
    choices = cell_choices(job)
    names = [name for _, name in choices]
    two = [*names[:1], *names[-1:]]
    missing = f", {failed} failed: click Compare to try them again" if failed else ""
    yield {
        shown.status: f"{len(names)} of {total} cells{missing}.",
        shown.grid: grid_html(job, tuple(two)),
        shown.after: gr.Column(visible=bool(names)),
        shown.table: compare_votes.score_rows(job, found),
        shown.files: [str(path) for path in sorted(job.folder.glob("*.*"))
                      if path.name == BUNDLE or path.stem.startswith(("figure", "scores"))],
        shown.one: gr.Dropdown(choices, value=two[0] if two else None),
        shown.other: gr.Dropdown(choices, value=two[-1] if two else None),
    }

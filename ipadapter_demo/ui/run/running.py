"""From the Generate button to pictures on the page: one streaming handler for every tab."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import gradio as gr
from gradio.events import Dependency

from ipadapter_demo.compare.strip import filmstrip
from ipadapter_demo.lora import loras_from_texts
from ipadapter_demo.request import MAX_COUNT, MAX_SEED, GenerateRequest
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import with_errors_said
from ipadapter_demo.ui.run.further import NEXT, add_further_runs
from ipadapter_demo.ui.run.labels import with_labels
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.say import PROBLEM
from ipadapter_demo.ui.run.tab import BuiltTab, Tab, Update
from ipadapter_demo.ui.run.updates import (
    PREVIEW,
    lines_of,
    loading,
    preview_every,
    strip_updates,
    updates,
    waited,
)
from ipadapter_demo.ui.run.uploads import value_from_widget
from ipadapter_demo.ui.run.visitor import this_visitor
from ipadapter_demo.ui.widgets.larger import upscale_from_values

T = TypeVar("T")

# Who runs the model waits in the manager's line, which says how long; none of gradio's comes first.
QUEUE: dict[str, object] = {"concurrency_id": "model", "concurrency_limit": None}
# For what only moves the page: at once, without a spinner, and no endpoint to call.
AT_ONCE: dict[str, object] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
# The same for what may be refused: gradio shows no error of an event that has no queue.
REFUSABLE: dict[str, object] = AT_ONCE | {"queue": True}
# The results may be far from what was clicked: on a phone, or at examples below long inputs. Before
# the first picture they have no place.
BEGIN = """() => {
    const row = document.getElementById("run-TAB");
    const results = row.closest(".tab").querySelector(".results");
    clearTimeout(row.resting);  // Live does not draw over what was asked for
    row.moved = null;
    const watch = new ResizeObserver(() => {
        if (!results.offsetParent) return;
        watch.disconnect();
        results.scrollIntoView({ behavior: "smooth", block: "nearest" });
    });
    watch.observe(results);
    window.stoppedTabs?.delete("TAB");
    return [];
}"""
# Shift and Enter in the prompt: while something is drawn the button is disabled.
SUBMIT = """() => {
    document.querySelector("#run-TAB .generate").click();
    return [];
}"""
STOP = r"""(status) => {
    const row = document.getElementById("run-TAB");
    if (row.goesOn) {  // it was Live
        row.goesOn = false;
        return status;
    }
    clearTimeout(row.resting);
    row.moved = null;
    const waiting = row.querySelector(".queue")?.textContent.match(/\d+/)?.[0];
    (window.stoppedTabs ??= new Map()).set("TAB", waiting);
    return "Stopping after this step: the pictures that are shown stay.";
}"""
# Of a run that came to no end. Updates may come between a click on Stop and the end of the run, so
# the status does not tell one from the other; an error's sentence is in it already.
ENDED = """(status) => {
    if (document.getElementById("run-TAB").moved) return status;
    if (window.stoppedTabs?.has("TAB")) {
        const waited = window.stoppedTabs.get("TAB");
        const dropped = waited ? ` Runs that waited are dropped: ${waited}.` : "";
        const tab = document.getElementById("run-TAB").closest(".tab");
        const previews = tab.querySelector('.results img[src*="/PREVIEW."]');
        return (previews ? "Stopped. The pictures that are shown are not finished."
            : "Stopped. The pictures that are shown stay.") + dropped;
    }
    return status?.startsWith('PROBLEM') ? status
        : 'PROBLEM' + 'Not finished: the server did not take the run. The message says why.</span>';
}""".replace("PROBLEM", PROBLEM).replace("PREVIEW", PREVIEW)


def build_tab(manager: ModelManager, model: ModelInput, tab: Tab) -> BuiltTab:
    """Lay out a tab and make its buttons work."""
    inputs, results, buttons = tab.layout(manager, model)
    built = BuiltTab(tab, inputs | {"model": model.chosen}, results, buttons)
    name = tab.translate.__name__
    if "prompt" in inputs:
        inputs["prompt"].submit(None, js=SUBMIT.replace("TAB", name), **AT_ONCE)
    begin, stop, ended, following = (js.replace("TAB", name) for js in (BEGIN, STOP, ENDED, NEXT))
    kinds: list[tuple[gr.Button, Callable[..., Iterator[Update]]]]
    kinds = [(buttons.generate, updates)]
    if buttons.strip is not None:
        kinds.append((buttons.strip, strip_updates))
    for button, updates_of in kinds:
        run = _handler(manager, built, updates_of)
        clicked = button.click(buttons.busy, outputs=buttons.all, js=begin, **AT_ONCE)
        running = endpoint(
            clicked.then,
            run,
            built.inputs,
            built.outputs,
            show_progress="hidden",
            api_visibility="private",
            **QUEUE,
        )
        built.runs.append(running)
    # first of what Stop does, while the runs that wait are still counted
    buttons.stop.click(None, js=stop, inputs=results.status, outputs=results.status, **AT_ONCE)
    built.runs.append(add_further_runs(built, _handler(manager, built, updates), AT_ONCE, QUEUE))
    for running in built.runs:
        running.then(buttons.idle, outputs=buttons.all, **AT_ONCE)
        _show_lines(running.success, built)
        _show_lines(running.failure, built)  # previews of a stopped run have none
        # After an error gradio skips `then`; after Stop it runs both, once the model has stopped.
        running.failure(buttons.idle, outputs=buttons.all, **AT_ONCE)
        running.failure(None, js=ended, inputs=results.status, outputs=results.status, **AT_ONCE)
        for event in (running.success, running.failure):
            event(None, js=following, **AT_ONCE)
    _show_lines(partial(gr.on, [results.gallery.select, results.scrubber.select]), built)
    buttons.stop.click(None, cancels=built.runs)
    return built


def _show_lines(event: Callable[..., Dependency], built: BuiltTab) -> None:
    """Of the result that was clicked, or of the first; and which one that is."""
    shown = built.results

    def show(gallery: object, event: gr.EventData) -> Update:
        lines = dict(zip(shown.lines, lines_of(gallery, event), strict=True))
        index = event._data.get("index") if isinstance(event._data, Mapping) else None
        return lines | {shown.number: index}

    outputs = [*shown.lines, shown.number]
    event(show, inputs=shown.gallery, outputs=outputs, preprocess=False, **AT_ONCE)


def _handler(
    manager: ModelManager, built: BuiltTab, updates_of: Callable[..., Iterator[Update]]
) -> Callable[..., Iterator[Update]]:
    def status(text: str) -> Update:
        return {built.results.status: text}

    film = filmstrip if updates_of is strip_updates else None

    def run(**values: object) -> Iterator[Update]:
        updates = drawn(manager, built, values, updates_of, status, film)
        yield from with_errors_said(with_labels(updates, built.inputs), status)

    return run


def drawn(
    manager: ModelManager,
    built: BuiltTab,
    values: dict[str, object],
    updates_of: Callable[..., Iterator[T]],
    status: Callable[[str], T],
    film: Callable[[GenerateRequest], list[GenerateRequest]] | None = None,
) -> Iterator[T]:
    """What `updates_of` makes of a run of the tab's raw values, after the `status` of waiting for
    it. `film` gives the requests that are drawn in place of the one. Raises RequestError and
    ModelError."""
    model = value_from_widget(built.inputs["model"], values.pop("model"), "model")
    record_attention = values.pop("attention", False) is True
    if live := values.pop("live", False) is True:
        values["random_seed"] = False  # the frames before had this one
    values.pop("shape", None)  # it has filled width and height
    request = request_from_values(built, values)
    pictures = film(request) if film else [request]
    previews = preview_every(request, not live) if updates_of is updates else 0
    cost = manager.cost(model, pictures, previews)
    with manager.turn(model, this_visitor(), cost) as turn:
        yield from map(status, waited(turn))
        if not manager.is_loaded(model):
            yield status(loading(model))
        pipeline = manager.at_turn(turn)
        turn.cost = manager.cost(model, pictures, previews)  # now that the model is known
        limit = manager.limits.time_limit
        yield from updates_of(built, pipeline, request, record_attention, turn, not live, limit)


def request_from_values(built: BuiltTab, values: Mapping[str, object]) -> GenerateRequest:
    """The request that raw widget values ask for. A random seed is drawn here, once."""
    read = {name: value_from_widget(built.inputs[name], values[name], name) for name in values}
    for side in ("width", "height"):
        if side in read:
            read[side] = read[side] or None  # a number field cannot be empty: 0 leaves it open
    if "guidance_start" in read:
        read["guidance_window"] = (read.pop("guidance_start"), read.pop("guidance_end"))
    if "upscale_factor" in read:
        read["upscale"] = upscale_from_values(read)
    if "loras" in read:
        read["loras"] = loras_from_texts(read["loras"])
    if "vae" in read:
        read["vae"] = read["vae"] or None
    if read.pop("random_seed"):
        read["seed"] = random.randint(0, MAX_SEED - MAX_COUNT)
    return built.tab.translate(**read)

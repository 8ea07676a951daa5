"""From the Generate button to pictures on the page: one streaming handler for every tab."""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import gradio as gr

from ipadapter_demo.errors import DemoError
from ipadapter_demo.request import MAX_COUNT, MAX_SEED, GenerateRequest
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.say import failure
from ipadapter_demo.ui.updates import (
    lines_of,
    loading,
    problem,
    strip_updates,
    updates,
    waited,
)
from ipadapter_demo.ui.uploads import value_from_widget

# Who runs the model waits in the manager's line, which says how long; none of gradio's comes first.
QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": None}
# For what only moves the page: at once, without a spinner, and no endpoint to call.
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# On a phone the results are far below the button.
BEGIN = """() => {
    const shown = [...document.querySelectorAll(".results")].find((one) => one.offsetParent);
    shown?.scrollIntoView({ behavior: "smooth", block: "nearest" });
    window.stoppedTabs?.delete("TAB");
    return [];
}"""
STOP = """() => {
    (window.stoppedTabs ??= new Set()).add("TAB");
    return "Stopping after this step.";
}"""
# Of a run that came to no end. Updates may come between a click on Stop and the end of the run, so
# the status does not tell one from the other; an error's sentence is in it already.
ENDED = """(status) => {
    if (window.stoppedTabs?.has("TAB")) return "Stopped.";
    return status?.startsWith('<span class="problem">') ? status
        : '<span class="problem">Not finished: the connection to the server was lost.</span>';
}"""

Widgets = dict[str, gr.Component]
Update = tuple[Any, ...]  # a value for each of a run's outputs
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab's widgets by name, and the two ways between their values and a request."""

    translate: Callable[..., GenerateRequest]
    inputs: Widgets
    widgets_from_request: Callable[[GenerateRequest], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Results:
    """The right column: what came out, and how far it is. `attention_maps` show where every
    reference had its say, for those who ask; `lines` make a result again elsewhere, as a command
    and in Python."""

    gallery: gr.Gallery
    status: gr.HTML
    attention_maps: gr.Gallery
    lines: tuple[gr.Code, gr.Code]
    comparison: gr.ImageSlider | None


@dataclass(frozen=True, slots=True)
class Buttons:
    generate: gr.Button
    stop: gr.Button
    strip: gr.Button | None = None  # the same at several λ

    @property
    def both(self) -> list[gr.Button]:
        return [self.generate, self.stop]

    def busy(self) -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=False), gr.Button(interactive=True)

    def idle(self) -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=True), gr.Button(interactive=False)


@contextmanager
def shown_errors() -> Iterator[None]:
    """What a person can act on is shown as it is; anything else goes to the log."""
    try:
        yield
    except DemoError as error:
        raise failure(error) from error
    except gr.Error:
        raise
    except Exception as error:
        log.exception("a request failed")
        raise failure(
            "Something went wrong on the server; its log says what. Nothing you entered is lost."
        ) from error


def with_errors_said(updates: Iterator[T], status: Callable[[str], T]) -> Iterator[T]:
    """The same updates; an error's sentence is the last of them, as the status, before the error
    itself."""
    try:
        with shown_errors():
            yield from updates
    except gr.Error as error:
        yield status(problem(error))
        raise


def connect(manager: ModelManager, tab: Tab, results: Results, buttons: Buttons) -> None:
    """Make the buttons work, and `/<name of translate>` do over HTTP what Generate does."""
    outputs = _outputs(tab, results)
    triggers = [buttons.generate.click]
    if "prompt" in tab.inputs:
        triggers.append(tab.inputs["prompt"].submit)
    name = tab.translate.__name__
    begin, stop, ended = (js.replace("TAB", name) for js in (BEGIN, STOP, ENDED))
    started = [
        (
            gr.on(triggers, buttons.busy, outputs=buttons.both, js=begin, **AT_ONCE),
            updates,
            {"api_name": name},
        )
    ]
    if buttons.strip is not None:
        clicked = buttons.strip.click(buttons.busy, outputs=buttons.both, js=begin, **AT_ONCE)
        started.append((clicked, strip_updates, {"api_visibility": "private"}))
    runs = []
    for event, updates_of, api in started:
        running = event.then(
            _handler(manager, tab, results, updates_of),
            inputs_kwargs=tab.inputs,
            outputs=outputs,
            preprocess=False,
            show_progress="hidden",
            **api,
            **QUEUE,
        )
        running.then(buttons.idle, outputs=buttons.both, **AT_ONCE)
        running.success(
            lines_of,
            inputs=results.gallery,
            outputs=list(results.lines),
            preprocess=False,
            **AT_ONCE,
        )
        # After an error gradio skips `then`; after Stop it runs both, once the model has stopped.
        running.failure(buttons.idle, outputs=buttons.both, **AT_ONCE)
        running.failure(None, js=ended, inputs=results.status, outputs=results.status, **AT_ONCE)
        runs.append(running)
    results.gallery.select(
        lines_of, inputs=results.gallery, outputs=list(results.lines), preprocess=False, **AT_ONCE
    )
    buttons.stop.click(None, js=stop, outputs=results.status, **AT_ONCE)
    buttons.stop.click(None, cancels=runs)


def _outputs(tab: Tab, results: Results) -> list[gr.Component]:
    """What an update has a value for."""
    comparison = [] if results.comparison is None else [results.comparison]
    return [
        results.gallery,
        results.status,
        tab.inputs["seed"],
        results.attention_maps,
        *comparison,
    ]


def _handler(
    manager: ModelManager, tab: Tab, results: Results, updates_of: Callable[..., Iterator[Update]]
) -> Callable[..., Iterator[Update]]:
    outputs = _outputs(tab, results)

    def only(status: str) -> Update:
        return tuple(status if one is results.status else gr.skip() for one in outputs)

    def drawn(values: dict[str, Any]) -> Iterator[Update]:
        model = value_from_widget(tab.inputs["model"], values.pop("model"), "model")
        record_attention = values.pop("attention", False) is True
        values.pop("shape", None)  # it has filled width and height
        request = request_from_values(tab, values)
        with manager.turn(model) as turn:
            yield from map(only, waited(turn))
            if model != manager.info.name:
                yield only(loading(model))
            pipeline = manager.at_turn(turn, model)
            for update in updates_of(pipeline, request, record_attention, turn):
                yield update[: len(outputs)]

    @wraps(tab.translate)  # the endpoint has its name, documentation and defaults
    def run(**values: Any) -> Iterator[Update]:
        yield from with_errors_said(drawn(values), only)

    run.__signature__ = _signature(tab)  # type: ignore[attr-defined]
    return run


def _signature(tab: Tab) -> inspect.Signature:
    """The endpoint's: a parameter for each widget, and a picture of a slot need not be given."""
    known = inspect.signature(tab.translate).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY

    def default(name: str) -> Any:
        if name == "attention":
            return False
        if name.startswith("means_"):
            return "white"
        if name in ("shape", "width", "height"):
            return None
        return None if isinstance(tab.inputs[name], gr.Image) else inspect._empty

    return inspect.Signature(
        [
            known.get(name) or inspect.Parameter(name, keyword, default=default(name))
            for name in tab.inputs
        ]
    )


def request_from_values(tab: Tab, values: Mapping[str, Any]) -> GenerateRequest:
    """The request that raw widget values ask for. A random seed is drawn here, once."""
    read = {name: value_from_widget(tab.inputs[name], values[name], name) for name in values}
    for side in ("width", "height"):
        if side in read:
            read[side] = read[side] or None  # a number field cannot be empty: 0 leaves it open
    if read.pop("random_seed"):
        read["seed"] = random.randint(0, MAX_SEED - MAX_COUNT)
    return tab.translate(**read)

"""From the Generate button to pictures on the page: one streaming handler for every tab."""

from __future__ import annotations

import html
import inspect
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import gradio as gr

from ipadapter_demo.errors import DemoError
from ipadapter_demo.pipeline import Studio
from ipadapter_demo.request import MAX_COUNT, MAX_SEED, GenerateRequest
from ipadapter_demo.ui.updates import lines_of, strip_updates, updates
from ipadapter_demo.ui.uploads import value_from_widget

# Every listener that runs the model waits in this one line; gradio's default is a line for each.
LANE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
# For what only moves the page: at once, without a spinner, and no endpoint to call.
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# On a phone the results are far below the button.
SHOW_RESULTS = """() => {
    const shown = [...document.querySelectorAll(".results")].find((one) => one.offsetParent);
    shown?.scrollIntoView({ behavior: "smooth", block: "nearest" });
    return [];
}"""

Widgets = dict[str, gr.Component]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab's widgets by name, and the two ways between their values and a request."""

    translate: Callable[..., GenerateRequest]
    inputs: Widgets
    widgets_from_request: Callable[[GenerateRequest], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Results:
    """The right column: what came out, and how far it is. `heard` is where every reference had its
    say, for those who ask; `lines` make a result again elsewhere, as a command and in Python."""

    gallery: gr.Gallery
    status: gr.HTML
    heard: gr.Gallery
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
        # The page renders messages as HTML, and this one may quote what somebody typed.
        text = html.escape(str(error), quote=False)
        raise gr.Error(text, print_exception=False) from error
    except gr.Error:
        raise
    except Exception as error:
        log.exception("a request failed")
        raise gr.Error(
            "Something went wrong on the server; its log says what. Nothing you entered is lost.",
            print_exception=False,
        ) from error


def connect(studio: Studio, tab: Tab, results: Results, buttons: Buttons) -> None:
    """Make the buttons work, and `/<name of translate>` do over HTTP what Generate does."""
    outputs = [results.gallery, results.status, tab.inputs["seed"], results.heard]
    if results.comparison is not None:
        outputs.append(results.comparison)

    def handler(updates_of: Callable[..., Iterator[tuple[Any, ...]]]) -> Callable[..., Any]:
        @wraps(tab.translate)  # the endpoint has its name, documentation and defaults
        def run(**values: Any) -> Iterator[tuple[Any, ...]]:
            with shown_errors():
                model = value_from_widget(tab.inputs["model"], values.pop("model"), "model")
                watched = values.pop("attention", False) is True
                values.pop("shape", None)  # it has filled width and height
                request = request_from_values(tab, values)
                with studio.visit(model) as pipeline:
                    for update in updates_of(pipeline, request, watched):
                        yield update[: len(outputs)]

        run.__signature__ = _signature(tab)  # type: ignore[attr-defined]
        return run

    triggers = [buttons.generate.click]
    if "prompt" in tab.inputs:
        triggers.append(tab.inputs["prompt"].submit)
    name = tab.translate.__name__
    started = [(gr.on(triggers, buttons.busy, outputs=buttons.both, js=SHOW_RESULTS, **AT_ONCE),
                updates, {"api_name": name})]
    if buttons.strip is not None:
        clicked = buttons.strip.click(buttons.busy, outputs=buttons.both, js=SHOW_RESULTS,
                                      **AT_ONCE)
        started.append((clicked, strip_updates, {"api_visibility": "private"}))
    runs = []
    for event, updates_of, api in started:
        running = event.then(
            handler(updates_of), inputs_kwargs=tab.inputs, outputs=outputs, preprocess=False,
            show_progress="minimal", show_progress_on=results.status, **api, **LANE,
        )
        running.then(buttons.idle, outputs=buttons.both, **AT_ONCE)
        running.success(lines_of, inputs=results.gallery, outputs=list(results.lines),
                        preprocess=False, **AT_ONCE)
        # After an error gradio skips `then`; after Stop it runs both, once the model has stopped.
        running.failure(lambda: (*buttons.idle(), "Stopped."),
                        outputs=[*buttons.both, results.status], **AT_ONCE)
        runs.append(running)
    results.gallery.select(lines_of, inputs=results.gallery, outputs=list(results.lines),
                           preprocess=False, **AT_ONCE)
    said = "() => 'Stopping after this step.'"
    buttons.stop.click(None, js=said, outputs=results.status, **AT_ONCE)
    buttons.stop.click(None, cancels=runs)


def _signature(tab: Tab) -> inspect.Signature:
    """The endpoint's: a parameter for each widget, and a picture of a slot need not be given."""
    known = inspect.signature(tab.translate).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY

    def default(name: str) -> Any:
        if name == "attention":
            return False
        if name in ("shape", "width", "height"):
            return None
        return None if isinstance(tab.inputs[name], gr.Image) else inspect._empty

    return inspect.Signature([
        known.get(name) or inspect.Parameter(name, keyword, default=default(name))
        for name in tab.inputs
    ])


def request_from_values(tab: Tab, values: Mapping[str, Any]) -> GenerateRequest:
    """The request that raw widget values ask for. A random seed is drawn here, once."""
    read = {name: value_from_widget(tab.inputs[name], values[name], name) for name in values}
    for side in ("width", "height"):
        if side in read:
            read[side] = read[side] or None  # a number field cannot be empty: 0 leaves it open
    if read.pop("random_seed"):
        read["seed"] = random.randint(0, MAX_SEED - MAX_COUNT)
    return tab.translate(**read)

"""From the Generate button to pictures on the page: one streaming handler for every tab."""

from __future__ import annotations

import html
import inspect
import logging
import math
import random
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ipadapter_demo.errors import DemoError
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result, Studio
from ipadapter_demo.record import save_png
from ipadapter_demo.request import MAX_COUNT, MAX_SEED, GenerateRequest
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
PREVIEWS = 6  # a run shows at most as many; each costs a decoding

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
    """The right column: what came out, and how far it is."""

    gallery: gr.Gallery
    status: gr.HTML
    comparison: gr.ImageSlider | None


@dataclass(frozen=True, slots=True)
class Buttons:
    generate: gr.Button
    stop: gr.Button

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
    """Make Generate and Stop work, and `/<name of translate>` do the same over HTTP."""
    outputs = [results.gallery, results.status, tab.inputs["seed"]]
    if results.comparison is not None:
        outputs.append(results.comparison)
    both = [buttons.generate, buttons.stop]

    @wraps(tab.translate)  # the endpoint has its name, documentation and defaults
    def run(**values: Any) -> Iterator[tuple[Any, ...]]:
        with shown_errors():
            model = value_from_widget(tab.inputs["model"], values.pop("model"), "model")
            request = request_from_values(tab, values)
            pipeline = studio.with_model(model)
            warn_about_words(pipeline, request)
            for update in updates(pipeline, request):
                yield update[: len(outputs)]

    run.__signature__ = _signature(tab)  # type: ignore[attr-defined]
    triggers = [buttons.generate.click]
    if "prompt" in tab.inputs:
        triggers.append(tab.inputs["prompt"].submit)
    running = gr.on(triggers, buttons.busy, outputs=both, js=SHOW_RESULTS, **AT_ONCE).then(
        run,
        inputs_kwargs=tab.inputs,
        outputs=outputs,
        preprocess=False,
        show_progress="minimal",
        show_progress_on=results.status,
        api_name=tab.translate.__name__,
        **LANE,
    )
    running.then(buttons.idle, outputs=both, **AT_ONCE)
    # After an error gradio skips `then`; after Stop it runs both, once the model has stopped.
    running.failure(
        lambda: (*buttons.idle(), "Stopped."), outputs=[*both, results.status], **AT_ONCE
    )
    said = "() => 'Stopping after this step.'"
    buttons.stop.click(None, js=said, outputs=results.status, **AT_ONCE)
    buttons.stop.click(None, cancels=[running])


def _signature(tab: Tab) -> inspect.Signature:
    """The endpoint's: a parameter for each widget, and a picture of a slot need not be given."""
    known = inspect.signature(tab.translate).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([
        known.get(name) or inspect.Parameter(
            name, keyword, default=None if isinstance(widget, gr.Image) else inspect._empty)
        for name, widget in tab.inputs.items()
    ])


def request_from_values(tab: Tab, values: Mapping[str, Any]) -> GenerateRequest:
    """The request that raw widget values ask for. A random seed is drawn here, once."""
    read = {name: value_from_widget(tab.inputs[name], values[name], name) for name in values}
    if read.pop("random_seed"):
        read["seed"] = random.randint(0, MAX_SEED - MAX_COUNT)
    return tab.translate(**read)


def warn_about_words(pipeline: ImagePromptPipeline, request: GenerateRequest) -> None:
    known = pipeline.info.words
    words = re.findall(r"\w+", request.prompt.lower())
    if known and words and not any(word in known for word in words):
        gr.Warning(f"This model knows no word of the prompt. It knows: {', '.join(known)}")


def updates(pipeline: ImagePromptPipeline, request: GenerateRequest) -> Iterator[tuple[Any, ...]]:
    """Values for gallery, status, seed and comparison."""
    same = gr.skip()
    yield same, progress(0, request.steps), request.seed, same
    events = pipeline.stream(request, preview_every=math.ceil(request.steps / PREVIEWS))
    try:
        for event in events:
            if isinstance(event, Preview):
                yield list(event.images) or same, progress(event.step, event.steps), same, same
            else:
                for note in event.notes:
                    gr.Info(html.escape(note))
                yield saved(event), summary(event), event.seeds[0], compared(event)
    finally:
        events.close()  # Stop closes this generator, and with it the model stops between two steps


def saved(result: Result) -> list[str]:
    """Paths. gradio's cache serves the files as they are and deletes them in time."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    paths = []
    for index, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        path = folder / f"ip-adapter-{seed}.png"
        save_png(path, image, result.request, seed, index, result.facts)
        paths.append(str(path))
    return paths


def compared(result: Result) -> Any:
    given = result.request.inpaint
    return (given.image, result.images[0]) if given else None


def summary(result: Result) -> str:
    first, last = result.seeds[0], result.seeds[-1]
    if first == last:
        made = f"1 picture in {result.seconds:.1f} s, seed {first}."
    else:
        made = f"{len(result.seeds)} pictures in {result.seconds:.1f} s, seeds {first} to {last}."
    return f"{made} Each PNG holds its request."


def progress(step: int, steps: int) -> str:
    words = f"step {step} of {steps}" if step else "starting"
    return f'<progress value="{step}" max="{steps}"></progress> {words}'

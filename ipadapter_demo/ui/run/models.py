"""Choosing a model, and what changes on the page with it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

import gradio as gr

from ipadapter_demo.models.sources import Report
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.running import AT_ONCE, QUEUE
from ipadapter_demo.ui.run.tab import BuiltTab, Properties, Update
from ipadapter_demo.ui.run.updates import waited
from ipadapter_demo.ui.run.visitor import this_visitor


def on_switch(
    manager: ModelManager,
    model: ModelInput,
    title: gr.HTML,
    header: Callable[[ModelInfo], str],
    tabs: Iterable[BuiltTab],
) -> None:
    """Show what the model that is chosen recommends and offers."""
    widgets = recommended(tabs, manager.info)

    def switch(
        name: str,
        shown: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Update]:
        if name == shown:  # a PNG that is restored brings its own values along with the model
            yield {}
            return
        with shown_errors():
            info = yield from info_of(manager, name, lambda text, share: progress(share, desc=text))
            properties = recommended(tabs, info).items()
            updates = {widget: gr.update(**changed) for widget, changed in properties}
            yield updates | {model.shown: name, title: header(info)}

    # Not `input`: gradio sends it for every choice twice, and whenever the field is left.
    switching = model.chosen.change(
        switch,
        inputs=[model.chosen, model.shown],
        outputs=[model.shown, title, *widgets],
        show_progress_on=title,
        api_visibility="private",
        **QUEUE,
    )
    switching.failure(lambda shown: shown, inputs=model.shown, outputs=model.chosen, **AT_ONCE)


def recommended(tabs: Iterable[BuiltTab], info: ModelInfo) -> dict[gr.Component, Properties]:
    """The properties of every widget that depends on the model."""
    found: dict[gr.Component, Properties] = {}
    for tab in tabs:
        found |= tab.recommended(info)
    return found


def info_of(manager: ModelManager, name: str, report: Report) -> Generator[Update, None, ModelInfo]:
    """The recommendations of a model. It is loaded if that is not known yet, as soon as those in
    line have their pictures. Updates that change nothing come meanwhile: who has left is missed."""
    if (known := manager.info_of(name)) is not None:
        return known
    with manager.turn(name, this_visitor()) as turn:
        for said in waited(turn):
            report(said, 0.0)
            yield {}
        return manager.at_turn(turn, report).info

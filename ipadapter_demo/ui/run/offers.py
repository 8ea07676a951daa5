"""Two ways out for somebody who does not know what a small model can draw: a scene of its world as
the reference, and beside the notice of a strange picture another model."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

import gradio as gr
from PIL import Image

from ipadapter_demo.models.at_hand import NOT_HERE
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import BuiltTab, Update
from ipadapter_demo.ui.widgets.examples import DRAW

Scene = Callable[[int], Image.Image]  # of a seed
NOTICE = "is unlike all that"  # of `pipeline.warnings`
KNOWS_PHOTOGRAPHS = "sd15"  # and all whose names begin so


def add_surprise(manager: ModelManager, model: ModelInput, built: BuiltTab, scene: Scene) -> None:
    """Make the tab's button work, for models with a small world."""
    button, reference = built.results.surprise, built.inputs["reference"]

    def drawn() -> Image.Image:
        return scene(secrets.randbelow(2**31))

    def offered(name: str) -> gr.Button:
        return gr.Button(visible=_is_small(manager.info_of(name)))

    button.visible = _is_small(manager.info)
    model.shown.change(offered, inputs=model.shown, outputs=button, **AT_ONCE)
    found = button.click(drawn, outputs=reference, **AT_ONCE)
    js = DRAW.replace("TAB", built.tab.translate.__name__)
    found.success(None, js=js, **AT_ONCE)


def add_switch(manager: ModelManager, model: ModelInput, tabs: Iterable[BuiltTab]) -> None:
    """Beside the notice, for as long as it stands: a model that knows photographs, and its size.
    Where it is not at hand and is not fetched, choosing it says how it is to be had."""

    def other(status: object) -> gr.Button:
        found = _for_photographs(manager.models)
        if found is None or NOTICE not in str(status):
            return gr.Button(visible=False)
        way = "How to get" if NOT_HERE in found[1] else "Switch to"
        return gr.Button(f"{way} {found[1]}", visible=True)

    def switched() -> Update:
        found = _for_photographs(manager.models)
        return {} if found is None else {model.chosen: found[0]}

    for built in tabs:
        button, status = built.results.switch, built.results.status
        for run in built.runs:
            run.success(other, inputs=status, outputs=button, **AT_ONCE)
            run.failure(lambda: gr.Button(visible=False), outputs=button, **AT_ONCE)
        button.click(switched, outputs=model.chosen, **AT_ONCE)
        model.shown.change(lambda: gr.Button(visible=False), outputs=button, **AT_ONCE)


def _is_small(info: ModelInfo | None) -> bool:
    return info is not None and bool(info.words)


def _for_photographs(models: dict[str, str]) -> tuple[str, str] | None:
    """The first of them that is offered, and how it is called, with what would be fetched."""
    names = sorted(name for name in models if name.startswith(KNOWS_PHOTOGRAPHS))
    return (names[0], models[names[0]]) if names else None

"""Choosing a model, and what changes on the page with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ipadapter_demo.models.sources import Report
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui import components
from ipadapter_demo.ui.model_input import ModelInput
from ipadapter_demo.ui.running import AT_ONCE, QUEUE, Tab, shown_errors
from ipadapter_demo.ui.slots import STRUCTURES, structure_choices
from ipadapter_demo.ui.updates import waited

Properties = dict[str, Any]  # of a widget


def on_switch(
    manager: ModelManager,
    model: ModelInput,
    title: gr.HTML,
    header: Callable[[ModelInfo], str],
    built: Mapping[str, Tab],
) -> None:
    """Show what the model that is chosen recommends and offers."""
    widgets = [widget for widget, _, _ in depending(built)]
    outputs = [model.shown, title, *widgets]

    def switch(name: str, shown: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        if name == shown:  # a PNG that is restored brings its own values along with the model
            return [gr.skip()] * len(outputs)
        with shown_errors():
            info = info_of(manager, name, lambda text, share: progress(share, desc=text))
        return [
            name,
            header(info),
            *(gr.update(**FIELDS[field](info, tab)) for _, field, tab in depending(built)),
        ]

    # Not `input`: gradio sends it for every choice twice, and whenever the field is left.
    switching = model.chosen.change(
        switch,
        inputs=[model.chosen, model.shown],
        outputs=outputs,
        show_progress_on=title,
        api_visibility="private",
        **QUEUE,
    )
    switching.failure(lambda shown: shown, inputs=model.shown, outputs=model.chosen, **AT_ONCE)


def info_of(manager: ModelManager, name: str, report: Report) -> ModelInfo:
    """What a model recommends. It is loaded if that is not known yet, as soon as those in line
    have their pictures."""
    if (known := manager.info_of(name)) is not None:
        return known
    with manager.turn(name) as turn:
        for said in waited(turn):
            report(said, 0.0)
        return manager.at_turn(turn, name, report).info


def depending(built: Mapping[str, Tab]) -> list[tuple[gr.Component, str, str]]:
    """(widget, field, tab) of whatever depends on the model."""
    return [
        (tab.inputs[field], field, name)
        for name, tab in built.items()
        for field in FIELDS
        if field in tab.inputs
    ]


def _image_scale(info: ModelInfo, tab: str) -> Properties:
    return {
        "value": info.recommended.scale_for(prompt=tab == "image_text", maps=tab == "structure")
    }


def _adapter(info: ModelInfo, tab: str) -> Properties:
    return {
        "choices": components.adapter_choices(info),
        "value": info.adapters[0],
        "visible": len(info.adapters) > 1,
    }


def _kind(info: ModelInfo, tab: str) -> Properties:
    choices = structure_choices(info)
    return {"choices": choices, "value": choices[0][1] if choices else None}


# What each widget shows for a model, where it depends on one.
FIELDS: dict[str, Callable[[ModelInfo, str], Properties]] = {
    "steps": lambda info, tab: {"value": info.recommended.steps},
    "guidance": lambda info, tab: {"value": info.recommended.guidance_for(tab == "inpaint")},
    "sampler": lambda info, tab: {"value": info.recommended.sampler_for(tab == "inpaint")},
    "repaint_passes": lambda info, tab: {"value": info.recommended.repaint_passes},
    "context": lambda info, tab: {"value": info.recommended.context},
    "background_weight": lambda info, tab: {"value": info.recommended.background_weight},
    "image_scale": _image_scale,
    "shape": lambda info, tab: {"choices": components.shape_choices(info), "value": ""},
    "width": lambda info, tab: {"value": 0},
    "height": lambda info, tab: {"value": 0},
    "prompt": lambda info, tab: {"info": components.words_known(info)},
    "adapter": _adapter,
    "kind": _kind,
    **{f"kind_{k}": _kind for k in STRUCTURES},
    "image_layers": lambda info, tab: {"value": "all", "visible": info.layer_presets},
}

"""Choosing a model, and what changes on the page with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo, Studio
from ipadapter_demo.ui import components
from ipadapter_demo.ui.running import AT_ONCE, LANE, Tab, shown_errors
from ipadapter_demo.ui.slots import STRUCTURES, structure_choices

Properties = dict[str, Any]  # of a widget


def model_input(studio: Studio) -> gr.Dropdown:
    """Every request goes with the model that its page shows."""
    choices = [(label, name) for name, label in studio.models.items()]
    return gr.Dropdown(
        choices, value=studio.info.name, label="Model", scale=0, min_width=260,
        visible=len(choices) > 1,
    )


def on_switch(studio: Studio, model: gr.Dropdown, title: gr.HTML,
              header: Callable[[ModelInfo], str], built: Mapping[str, Tab]) -> None:
    """Load the model that is chosen, and show what it recommends and offers."""
    widgets = [widget for widget, _, _ in depending(built)]

    def switch(name: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        with shown_errors():
            heard = lambda text, share: progress(share, desc=text)  # noqa: E731
            with studio.visit(name, heard) as pipeline:
                info = pipeline.info
        return [header(info), *(gr.update(**FIELDS[field](info, tab))
                                for _, field, tab in depending(built))]

    # What a person chooses; a PNG that is restored brings its own values along with the model.
    switching = model.input(switch, inputs=model, outputs=[title, *widgets],
                            show_progress_on=title, api_visibility="private", **LANE)
    switching.failure(lambda: studio.info.name, outputs=model, **AT_ONCE)


def depending(built: Mapping[str, Tab]) -> list[tuple[gr.Component, str, str]]:
    """(widget, field, tab) of whatever depends on the model."""
    return [(tab.inputs[field], field, name) for name, tab in built.items()
            for field in FIELDS if field in tab.inputs]


def _image_scale(info: ModelInfo, tab: str) -> Properties:
    return {"value": info.recommended_scale(words=tab == "image_text", maps=tab == "structure")}


def _adapter(info: ModelInfo, tab: str) -> Properties:
    return {"choices": components.adapter_choices(info), "value": info.adapters[0],
            "visible": len(info.adapters) > 1}


def _kind(info: ModelInfo, tab: str) -> Properties:
    choices = structure_choices(info)
    return {"choices": choices, "value": choices[0][1] if choices else None}


# What each widget shows for a model, where it depends on one.
FIELDS: dict[str, Callable[[ModelInfo, str], Properties]] = {
    "steps": lambda info, tab: {"value": info.steps},
    "guidance": lambda info, tab: {
        "value": info.paint_guidance if tab == "inpaint" else info.guidance},
    "passes": lambda info, tab: {"value": info.passes},
    "context": lambda info, tab: {"value": info.context},
    "surroundings": lambda info, tab: {"value": info.surroundings},
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

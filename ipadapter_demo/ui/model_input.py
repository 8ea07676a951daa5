"""The model that a page shows. Others may show another, and only one of all is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ipadapter_demo.pipeline import Previews, Studio
from ipadapter_demo.ui.say import inform


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The model that is chosen, which every request goes with, and the one whose recommendations
    the page shows: the same, but while another is loaded."""

    chosen: gr.Dropdown
    shown: gr.State


def model_input(studio: Studio) -> ModelInput:
    choices = [(label, name) for name, label in studio.models.items()]
    chosen = gr.Dropdown(
        choices, value=studio.info.name, label="Model", scale=0, min_width=260,
        visible=len(choices) > 1,
    )
    return ModelInput(chosen, gr.State(studio.info.name))


def previews_of(studio: Studio, model: str) -> Previews | None:
    """Of the model that the page shows, or nothing yet."""
    found = studio.previews(model)
    if found is None:
        inform(f"A preview is shown as soon as {model} is loaded.")
    return found

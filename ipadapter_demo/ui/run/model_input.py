"""The model that a page shows. Others may show another, and only one of all is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ipadapter_demo.pipeline import Previews
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.say import inform


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The model that is chosen, which every request goes with, and the one whose recommendations
    the page shows: the same, but while another is loaded."""

    chosen: gr.Dropdown
    shown: gr.State


def model_input(manager: ModelManager) -> ModelInput:
    chosen = gr.Dropdown(
        value=manager.info.name,
        label="Model",
        container=False,
        show_label=False,
        scale=0,
        min_width=260,
        **model_properties(manager),
    )
    return ModelInput(chosen, gr.State(manager.info.name))


def model_properties(manager: ModelManager) -> dict[str, object]:
    """The choices of just now."""
    choices = [(label, name) for name, label in manager.models.items()]
    return {"choices": choices, "visible": len(choices) > 1}


def previews_of(manager: ModelManager, model: str) -> Previews | None:
    """Of the model that the page shows, or nothing yet."""
    found = manager.previews(model)
    if found is None:
        inform(f"A preview is shown as soon as {model} is loaded.")
    return found

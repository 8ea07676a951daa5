"""The LoRAs of a request, as a list of "name" or "name:weight"."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.lora import texts_from_loras
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.ui.run.tab import Properties


def loras_input(info: ModelInfo) -> gr.Dropdown:
    """Hidden where the model has none."""
    return gr.Dropdown(
        label="LoRAs",
        info="a weight goes behind a colon, as style:0.7; else it is 1",
        multiselect=True,
        allow_custom_value=True,
        **loras_properties(info),
    )


def loras_properties(info: ModelInfo) -> Properties:
    """The choices of a model, those chosen that a request has which names none."""
    return {
        "choices": list(info.loras),
        "value": texts_from_loras(info.usual_loras),
        "visible": bool(info.loras),
    }

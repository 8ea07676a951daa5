"""The autoencoder of a request: the model's own, or one in the folder of models."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.ui.run.tab import Properties

OWN = ("the model's own", "")


def vae_input(info: ModelInfo) -> gr.Dropdown:
    """Hidden where there is none to choose."""
    return gr.Dropdown(
        label="VAE",
        info="what turns latents into pixels; of the folder of models",
        value="",
        allow_custom_value=True,
        **vae_properties(info),
    )


def vae_properties(info: ModelInfo) -> Properties:
    """The choices of just now."""
    names = info.vae_names
    return {"choices": [OWN, *((name, name) for name in names)], "visible": bool(names)}

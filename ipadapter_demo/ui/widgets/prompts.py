"""How prompts are read, and the further ones of a model with two text encoders."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import MAX_CLIP_SKIP
from ipadapter_demo.ui.run.tab import Properties, Widgets
from ipadapter_demo.ui.widgets.sliders import slider

SYNTAXES = [("plain text", "plain"), ("weighted: (word:1.3), [word], BREAK", "weighted")]


def prompt_settings(info: ModelInfo) -> Widgets:
    widgets: Widgets = {
        "negative_prompt": gr.Textbox(
            "", label="Negative prompt", placeholder="what to avoid", max_lines=3
        )
    }
    with gr.Row():
        widgets["prompt_syntax"] = gr.Dropdown(
            SYNTAXES,
            value="plain",
            label="Prompt syntax",
            info="weighted prompts may also be longer than the model reads at once",
            scale=3,
            min_width=200,
        )
        widgets["clip_skip"] = slider(
            0,
            MAX_CLIP_SKIP,
            0,
            1,
            "Clip skip",
            info="leaves out the text encoder's last layers; A1111 counts one more",
            scale=2,
        )
    for name, label in (("prompt_2", "Prompt"), ("negative_prompt_2", "Negative prompt")):
        widgets[name] = gr.Textbox(
            label=f"{label}, second text encoder",
            placeholder="the same as above",
            max_lines=3,
            **second_prompt_properties(info),
        )
    return widgets


def second_prompt_properties(info: ModelInfo) -> Properties:
    return {"value": "", "visible": info.second_prompt}

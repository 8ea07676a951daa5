"""A picture to start from, instead of noise."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.sliders import slider


def start_inputs() -> Widgets:
    """Image to image."""
    with (
        gr.Accordion("Image to image: start from a picture", open=False),
        gr.Row(equal_height=True),
    ):
        return {
            "init_image": components.picture("Start picture", height=150),
            "strength": slider(
                0.05, 1, 0.6, 0.05, "Denoising strength", info="1 = ignore original"
            ),
        }

"""The buttons of a tab, and the switch beside them."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.ui.run.tab import Buttons, Properties, Widgets


def run_buttons(tab: str, *, live: bool = False) -> Buttons:
    """Generate and Stop, and while something is drawn Queue; for `live` the sweep of λ as well, and
    what Live clicks: see `run.live`."""
    with gr.Row(elem_id=f"run-{tab}", elem_classes="run"):
        generate = gr.Button("Generate", variant="primary", scale=3, elem_classes="generate")
        sweep = gr.Button("Sweep λ", scale=1, min_width=100) if live else None
        queue = gr.Button("Queue", visible="hidden", scale=1, min_width=100, elem_classes="queue")
        stop = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_classes="halt")
        frame = gr.Button("Live frame", visible="hidden", elem_classes="frame") if live else None
        following = gr.Button("Next run", visible="hidden", elem_classes="next")
    return Buttons(generate, stop, sweep, frame, queue, following)


def live_switch(info: ModelInfo) -> Widgets:
    """Follow what is moved: see `run.live`."""
    return {
        "live": gr.Checkbox(
            label="Live: draw while λ, a weight or the prompt changes (the seed stays)",
            container=False,
            **live_properties(info),
        )
    }


def live_properties(info: ModelInfo) -> Properties:
    """Hidden where the model has no LoRA for few steps."""
    return {"value": False, "visible": info.live is not None}

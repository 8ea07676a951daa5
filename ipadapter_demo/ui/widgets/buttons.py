"""The buttons of a tab, and the switch beside them."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.ui.run.tab import Buttons, Properties, Widgets


def run_buttons() -> Buttons:
    """Generate and Stop."""
    with gr.Row():
        return Buttons(_generate(), _stop())


def live_buttons(info: ModelInfo, tab: str) -> tuple[Widgets, Buttons]:
    """Generate, the sweep, Stop, and the switch Live: see `run.live`."""
    with gr.Row(elem_id=f"run-{tab}"):
        generate = _generate()
        several = gr.Button("Sweep λ", scale=1, min_width=110)
        stop = _stop()
        frame = gr.Button("Live frame", visible="hidden", elem_classes="frame")
    live = gr.Checkbox(
        label="Live: draw while λ, a weight or the prompt changes (the seed stays)",
        container=False,
        **live_properties(info),
    )
    return {"live": live}, Buttons(generate, stop, several, frame)


def live_properties(info: ModelInfo) -> Properties:
    """Hidden where the model has no LoRA for few steps."""
    return {"value": False, "visible": info.live is not None}


def _generate() -> gr.Button:
    return gr.Button("Generate", variant="primary", scale=3, elem_classes="generate")


def _stop() -> gr.Button:
    return gr.Button(
        "Stop", variant="stop", interactive=False, scale=1, min_width=80, elem_classes="stop"
    )

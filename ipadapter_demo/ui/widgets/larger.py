"""A second pass, for a picture that is larger than a model draws by itself."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.widgets.sliders import slider
from ipadapter_demo.upscale import MAX_FACTOR, Upscale

ENLARGE = [("the picture", "picture"), ("its latents", "latents")]
USUAL = Upscale()


def upscale_inputs() -> Widgets:
    """The factor, which at 1 stands for one pass, the strength of the second, and what is
    enlarged."""
    widgets: Widgets = {}
    with gr.Row():
        widgets["upscale_factor"] = slider(
            1,
            MAX_FACTOR,
            1.0,
            0.25,
            "Upscale",
            info="above 1 the picture is drawn twice: small, then enlarged",
        )
        widgets["upscale_strength"] = slider(
            0.05, 1, USUAL.strength, 0.05, "Upscale strength", info="of the second pass"
        )
        widgets["enlarge"] = gr.Dropdown(
            ENLARGE, value=USUAL.enlarge, label="Enlarge", min_width=150
        )
    return widgets


def upscale_from_values(values: dict[str, Any]) -> Upscale | None:
    """Of the widgets, taken out of `values`. Raises RequestError."""
    factor, strength, enlarge = (
        values.pop(name) for name in ("upscale_factor", "upscale_strength", "enlarge")
    )
    if factor == 1:
        return None
    return Upscale(factor=factor, strength=strength, enlarge=enlarge)


def values_from_upscale(upscale: Upscale | None) -> dict[str, object]:
    shown = upscale or USUAL
    return {
        "upscale_factor": upscale.factor if upscale else 1.0,
        "upscale_strength": shown.strength,
        "enlarge": shown.enlarge,
    }

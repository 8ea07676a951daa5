"""Settings of drawing a part of a picture anew."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.request import MAX_REPAINT_PASSES, MAX_WEIGHT
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.widgets.sliders import slider


def context_input(manager: ModelManager) -> gr.Slider:
    """The share of the picture that the model sees."""
    return slider(
        0,
        1,
        manager.info.recommended.context,
        0.05,
        "Context",
        info="1 = the whole picture, 0 = the masked part only",
    )


def seam_inputs(manager: ModelManager) -> Widgets:
    """Repetitions of a step for the seam, and the weight of the picture as the image prompt around
    the mask."""
    return {
        "repaint_passes": slider(
            1,
            MAX_REPAINT_PASSES,
            manager.info.recommended.repaint_passes,
            1,
            "Repaint passes",
            info="a cleaner seam, and as many times slower",
        ),
        "background_weight": slider(
            0,
            MAX_WEIGHT,
            manager.info.recommended.background_weight,
            0.05,
            "Background image prompt",
            info="weight of the picture itself as image prompt around the mask",
        ),
    }

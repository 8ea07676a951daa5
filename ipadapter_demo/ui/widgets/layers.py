"""The layers in which λ acts, as presets, with a small drawing of the one that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.tab import Properties, Widgets

# What to call a preset, and its factor of λ in transformer t of T, counted as a step passes them.
PRESETS = {
    "all": ("all layers", "1"),
    "style": ("style only", "1 where the style is, else 0"),
    "layout": ("layout only", "1 where the layout is, else 0"),
    "style+layout": ("style and layout", "1 in both, else 0"),
    "strong style": ("strong style", "0 where the composition is, else 1"),
    "precise style": ("precise style", "1 where the style is; composition: against"),
    "composition": ("composition", "1 where the composition is, else 0"),
    "ease in": ("ease in", "0.05 + 0.95 (1 - t / T)"),
    "ease out": ("ease out", "0.05 + 0.95 t / T"),
    "ease in-out": ("ease in-out", "0.05 + 0.95 (1 - |2 t / T - 1|)"),
    "weak input": ("weak input", "0.2 on the way down, else 1"),
    "weak middle": ("weak middle", "0.2 in the middle, else 1"),
    "weak output": ("weak output", "0.2 on the way up, else 1"),
    "strong middle": ("strong middle", "1 in the middle, else 0.2"),
}
BAR, HEIGHT = 8, 32  # of one bar, and of the factor 1


def layers_input(manager: ModelManager, model: ModelInput) -> Widgets:
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown(
            label="Apply to layers", scale=3, min_width=180, **layers_properties(manager.info)
        )
        drawing = gr.HTML(
            drawn("all", manager.info), label="Layers", elem_classes="curve", min_width=140
        )

    def draw(preset: object, name: str) -> str:
        return drawn(preset, manager.info_beside(name))

    gr.on(
        [chosen.change, model.shown.change],
        draw,
        inputs=[chosen, model.shown],
        outputs=drawing,
        preprocess=False,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return {"image_layers": chosen}


def layers_properties(info: ModelInfo) -> Properties:
    choices = layer_choices(info)
    return {"choices": choices, "value": "all", "visible": bool(choices)}


def layer_choices(info: ModelInfo) -> list[tuple[str, str]]:
    """(what to call it, preset)."""
    return [(PRESETS[name][0], name) for name in info.layer_presets]


def drawn(preset: object, info: ModelInfo) -> str:
    """Its curve and its formula; nothing where a request has a number for each layer."""
    curve = next((found for name, found in info.layer_presets.items() if name == preset), None)
    if curve is None:
        return ""
    return f"{curve_svg(curve, str(preset))}<br>λ × {escape(PRESETS[str(preset)][1])}"


def curve_svg(curve: Sequence[float], name: str) -> str:
    """A bar for each transformer; below the line, in the unconditional half of guidance."""
    deepest = HEIGHT * max(0.0, -min(curve))
    width, height = BAR * len(curve), HEIGHT + deepest + 2
    bars = "".join(
        f'<rect x="{BAR * t + 1}" y="{HEIGHT * (1 - max(factor, 0)) + (factor < 0):g}" '
        f'width="{BAR - 2}" height="{HEIGHT * abs(factor):g}"'
        f"{' fill-opacity=' + chr(34) + '0.4' + chr(34) if factor < 0 else ''}/>"
        for t, factor in enumerate(curve)
    )
    return (
        f'<svg role="img" aria-label="{escape(name)}: strength in {len(curve)} layers, from the '
        f'first to the last" width="{width}" height="{height:g}" viewBox="0 0 {width} {height:g}" '
        f'fill="currentColor">{bars}<rect y="{HEIGHT}" width="{width}" height="1"/></svg>'
    )

"""Comparisons that people often want, a button each: it fills the form, which follows the model."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import Update, Widgets
from ipadapter_demo.ui.tabs.compare.form import AXES, SIDES
from ipadapter_demo.ui.widgets.recommended import RECOMMENDED

SAMPLERS = ("dpm++", "euler", "ddim", "unipc")
WORDS = {True: "on a green striped floor", False: "in a snowy forest"}  # with a small world, or not

# Of a model: what columns differ in, and the values. Rows are the pictures.
PRESETS: dict[str, Callable[[ModelInfo], tuple[str, str]]] = {
    "λ sweep": lambda info: ("image_scale", "0:1.25:0.25"),
    "Seeds": lambda info: ("seed", "1:5"),
    "Adapters": lambda info: ("adapter", "\n".join(info.adapters)),
    "Samplers": lambda info: ("sampler", "\n".join(SAMPLERS)),
    "The paper's row": lambda info: ("method", "text only, image to image, image only, as it is"),
}


def preset_buttons(manager: ModelManager, model: ModelInput) -> dict[str, gr.Button]:
    """By their names."""
    with gr.Row(elem_classes="presets"):
        buttons = {name: gr.Button(name, size="sm", min_width=80) for name in PRESETS}
    several = buttons["Adapters"]
    several.visible = len(manager.info.adapters) > 1

    def offered(name: str) -> gr.Button:
        return gr.Button(visible=len(manager.info_beside(name).adapters) > 1)

    model.shown.change(offered, inputs=model.shown, outputs=several, **AT_ONCE)
    return buttons


def fill_by_presets(
    manager: ModelManager, model: ModelInput, buttons: dict[str, gr.Button], inputs: Widgets
) -> None:
    """Make the buttons work on the widgets of the form."""
    sides = [inputs[f"{side}_{part}"] for side in SIDES for part in PARTS]
    columns_axis, columns, rows_axis, rows, pages_axis, pages = sides

    def filling(name: str) -> Callable[[str, str], Update]:
        def fill(prompt: str, model_name: str) -> Update:
            info = manager.info_beside(model_name)
            axis, values = PRESETS[name](info)
            own = "" if prompt.strip() in WORDS.values() else prompt
            words = WORDS[bool(info.words)] if axis == "method" else ""
            return {
                columns_axis: axis,
                columns: values,
                rows_axis: "reference",
                rows: "",
                pages_axis: "",
                pages: "",
                inputs["beside"]: ["reference"],
                inputs["prompt"]: own if own.strip() else words,
                inputs["written"]: "",
            }

        return fill

    outputs = [*sides, inputs["beside"], inputs["prompt"], inputs["written"]]
    for name, button in buttons.items():
        given = [inputs["prompt"], model.shown]
        button.click(filling(name), inputs=given, outputs=outputs, **AT_ONCE)


def follow_axes(manager: ModelManager, model: ModelInput, inputs: Widgets) -> None:
    """The hint is of the axis that is chosen, and values that a preset gave another one go: λ would
    be drawn as a prompt. What somebody wrote stays."""

    def follow(axis: str, written: str, name: str) -> gr.Textbox:
        info, hint = manager.info_beside(name), AXES[axis][1]
        given = (preset(info) for preset in PRESETS.values())
        others = {values for of, values in given if of != axis}
        return gr.Textbox(info=hint, **({"value": ""} if written in others else {}))

    for side in SIDES:
        axis, written = (inputs[f"{side}_{part}"] for part in PARTS)
        given = [axis, written, model.shown]
        axis.change(follow, inputs=given, outputs=written, **AT_ONCE)  # type: ignore[attr-defined]


def follow_model(manager: ModelManager, model: ModelInput, inputs: Widgets) -> None:
    """What depends on the model is that of the one which the page shows."""
    names = ("steps", "guidance", "image_scale", "adapter", "kind", "prompt")

    def follow(name: str, prompt: str) -> Update:
        info = manager.info_beside(name)
        changed = {name: RECOMMENDED[name](info) for name in names}
        if prompt in WORDS.values():
            changed["prompt"] |= {"value": WORDS[bool(info.words)]}
        return {inputs[name]: gr.update(**properties) for name, properties in changed.items()}

    outputs = [inputs[name] for name in names]
    model.shown.change(follow, [model.shown, inputs["prompt"]], outputs, **AT_ONCE)


PARTS = ("axis", "values")

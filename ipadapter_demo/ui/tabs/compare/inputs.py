"""The left column of the Compare tab: what to compare, and with which settings."""

from __future__ import annotations

import json

import gradio as gr

from ipadapter_demo.request import MAX_SEED, MAX_WEIGHT, SAMPLERS
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.tabs.compare.form import AXES
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.examples import FOLDER
from ipadapter_demo.ui.widgets.slots import structure_choices

BESIDE = [
    ("reference", "reference"),
    ("control map", "structure"),
    ("λ = 0", "no_image"),
    ("text only", "text_only"),
]
EXAMPLE = ("red-sphere.png", "blue-cone.png", "checker-cube.png")
# Pictures of one's own take the place of the examples.
OWN_ONLY = """(pictures) => {
    const names = EXAMPLE, all = pictures ?? [];
    const name = (one) => decodeURIComponent((one?.image?.path ?? "").split(/[\\/]/).pop());
    const own = all.length > names.length && names.every((given, n) => name(all[n]) === given);
    return [own ? all.slice(names.length) : all];
}""".replace("EXAMPLE", json.dumps(EXAMPLE))


def compare_inputs(manager: ModelManager) -> Widgets:
    """Pictures, and what columns, rows and pages differ in."""
    info = manager.info
    inputs: Widgets = {}
    inputs["pictures"] = gr.Gallery(
        [str(FOLDER / name) for name in EXAMPLE if (FOLDER / name).is_file()],
        label="Pictures",
        interactive=True,
        columns=4,
        height=190,
        object_fit="contain",
        sources=["upload"],
        file_types=["image"],
        format="png",
        buttons=[],
        elem_classes="pictures",
    )
    inputs["pictures"].upload(
        None, js=OWN_ONLY, inputs=inputs["pictures"], outputs=inputs["pictures"], **AT_ONCE
    )
    for side, axis, text in (
        ("columns", "image_scale", "0:1.25:0.25"),
        ("rows", "reference", ""),
        ("pages", "", ""),
    ):
        with gr.Row():
            inputs[f"{side}_axis"] = gr.Dropdown(
                [(label, name) for name, (label, _) in AXES.items()],
                value=axis,
                label=side.title(),
                scale=2,
                min_width=160,
            )
            inputs[f"{side}_values"] = gr.Textbox(
                text,
                label="Values",
                info=AXES[axis][1],
                lines=2,  # with one, Enter would begin no new line
                max_lines=8,
                scale=3,
                min_width=160,
            )
    inputs["beside"] = gr.CheckboxGroup(BESIDE, value=["reference"], label="Extra columns")
    inputs["prompt"] = gr.Textbox(
        "", label="Prompt", info=components.words_known(info), lines=1, max_lines=4
    )
    return inputs


def compare_settings(manager: ModelManager) -> tuple[Widgets, gr.Textbox, gr.Accordion]:
    """The settings that all cells share; the spec that is written instead, and where it unfolds."""
    info = manager.info
    inputs: Widgets = {}
    with gr.Row():
        inputs["steps"] = components.slider(1, 50, info.recommended.steps, 1, "Steps")
        inputs["guidance"] = components.slider(1, 15, info.recommended.guidance, 0.5, "Guidance")
    with gr.Accordion("Advanced", open=False):
        with gr.Row():
            inputs["image_scale"] = components.slider(
                0, 1.5, info.recommended.image_scale, 0.05, "Image strength λ"
            )
            inputs["adapter"] = gr.Dropdown(
                components.adapter_choices(info),
                value=info.adapters[0],
                label="Adapter",
                visible=len(info.adapters) > 1,
            )
        with gr.Row():
            inputs["seed"] = gr.Number(0, label="Seed", minimum=0, maximum=MAX_SEED, precision=0)
            inputs["sampler"] = gr.Dropdown(list(SAMPLERS), value=SAMPLERS[0], label="Sampler")
        inputs["negative_prompt"] = gr.Textbox("", label="Negative prompt")
        with gr.Row():
            choices = structure_choices(info)
            inputs["structure"] = gr.Textbox(
                "", label="Control image", placeholder="name of a picture above"
            )
            inputs["kind"] = gr.Dropdown(
                choices, value=choices[0][1] if choices else None, label="Control type"
            )
            inputs["structure_weight"] = components.slider(
                0, MAX_WEIGHT, 1.0, 0.05, "Control weight"
            )
    with gr.Accordion("Figure", open=False):
        inputs["title"] = gr.Textbox("", label="Title", info="for the caption", max_lines=2)
        with gr.Row():
            inputs["width"] = gr.Radio(
                [("one column", "single"), ("two columns", "double")], value="double", label="Width"
            )
            inputs["dpi"] = gr.Number(300, label="DPI", precision=0)
        inputs["zoom"] = gr.Textbox(
            "",
            label="Magnify a region in every picture",
            placeholder="left, top, width, height: 0.4, 0.4, 0.2, 0.2",
        )
    with gr.Accordion("Spec", open=False) as accordion:
        written = gr.Textbox(
            "",
            label="YAML or JSON",
            lines=6,
            max_lines=30,
            info="what is written here is compared instead of the form above; it names the "
            "pictures above by their file names; a second photo.png is photo-2.png",
        )
    return inputs, written, accordion

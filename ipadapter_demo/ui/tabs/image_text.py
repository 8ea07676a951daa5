"""A picture and words: the words edit what the picture says."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ipadapter_demo.errors import RequestError
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.tab import Buttons, Results, Tab, Widgets
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.buttons import live_switch, run_buttons
from ipadapter_demo.ui.widgets.examples import examples
from ipadapter_demo.ui.widgets.layers import layers_input
from ipadapter_demo.ui.widgets.recommended import RECOMMENDED
from ipadapter_demo.ui.widgets.reference_slots import (
    reference_slots,
    references_from_slots,
    slots_from_references,
)
from ipadapter_demo.ui.widgets.results import results_of
from ipadapter_demo.ui.widgets.start import start_inputs
from ipadapter_demo.ui.widgets.words import words_of_prompt


def image_text(
    *,
    prompt: str,
    image_scale: float,
    **more: Any,
) -> GenerateRequest:
    """Pictures from up to four pictures and a text; without any picture the text draws alone. The
    settings are saved inside each PNG."""
    references = references_from_slots(more)
    if not references and not prompt and more.get("init_image") is None:
        raise RequestError("reference is missing: upload a picture first, or write a prompt")
    return GenerateRequest(prompt=prompt, references=references, image_scale=image_scale, **more)


def widgets_from_request(request: GenerateRequest) -> dict[str, object]:
    """Values of this tab's widgets for a request, except the sampling ones."""
    return {"prompt": request.prompt, **slots_from_references(request.references)}


def layout(manager: ModelManager, model: ModelInput) -> tuple[Widgets, Results, Buttons]:
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="inputs"):
            inputs = components.reference_input(manager, model)
            inputs |= components.prompt_input(manager, optional=False)
            words_of_prompt(manager, model, inputs["prompt"])
            inputs |= components.image_prompt_inputs(
                manager, manager.info.recommended.text_image_scale
            )
            inputs |= live_switch(manager.info)
            examples(
                "image_text",
                [inputs["reference"], inputs["prompt"]],
                [
                    ["checker-cube.png", "on a green striped floor"],
                    ["red-sphere.png", "a cone"],
                    ["dotted-cone.png", "with a yellow wall"],
                ],
            )
        with gr.Column(elem_classes="outcome"):
            buttons = run_buttons("image_text", live=True)
            results = results_of("image_text")
        with gr.Column(elem_classes="settings"):
            inputs |= layers_input(manager, model)
            inputs |= components.sampling_inputs(manager, count=4, prompt=True)
            inputs |= start_inputs()
            inputs |= reference_slots(manager.info)
    return inputs, results, buttons


def makes(request: GenerateRequest) -> bool:
    given = request.prompt or request.references or request.init_image is not None
    return bool(given) and not request.structures and request.inpaint is None


TAB = Tab(
    label="Image + text",
    translate=image_text,
    widgets_from_request=widgets_from_request,
    makes=makes,
    recommended=RECOMMENDED
    | {
        "image_scale": lambda info: {"value": info.recommended.text_image_scale},
        "steps": lambda info: {"value": info.recommended.steps_for(True)},
    },
    layout=layout,
)

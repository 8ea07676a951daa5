"""A picture and words: the words edit what the picture says."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui import components
from ipadapter_demo.ui.examples import examples
from ipadapter_demo.ui.model_input import ModelInput
from ipadapter_demo.ui.running import Tab, connect
from ipadapter_demo.ui.slots import (
    layers_input,
    reference_slots,
    references_from_slots,
    slots_from_references,
)


def image_text(
    *,
    reference: Image.Image | None,
    fit: Any,
    prompt: str,
    image_scale: float,
    **more: Any,
) -> GenerateRequest:
    """Pictures from a picture and a text.

    reference: the picture; without one the text draws alone. prompt: the text. image_scale: λ, 0
    follows only the text, 1 the picture as well, in between they share. reference_2 to
    reference_4: further pictures, each with its fit_2, its weight_2, a mask_2 that is white where
    it has a say, or transparent there, if means_2 is transparent, the part of the steps from_2
    until_2, negative_2 to move away from it, and only_2, the number of the one result that it is
    for, 0 for all; weight_1 and so on are the first picture's. combine: concat or average.
    image_layers: all, style, layout or style+layout. seed counts where random_seed is false.
    Returns PNG files that hold their whole request, a status line and the seed of the first
    picture.
    """
    if reference is None and not prompt:
        raise RequestError("reference is missing: upload a picture first, or write a prompt")
    references = references_from_slots(reference, fit, more)
    return GenerateRequest(prompt=prompt, references=references, image_scale=image_scale, **more)


def widgets_from_request(request: GenerateRequest) -> dict[str, Any]:
    """What the widgets of this tab, the sampling ones aside, show for a request."""
    first = request.references[0] if request.references else None
    return {
        "reference": first and first.image,
        "fit": first.fit if first else "crop",
        "prompt": request.prompt,
        **slots_from_references(request.references),
    }


def build(pipeline: ModelManager, model: ModelInput) -> Tab:
    with gr.Row():
        with gr.Column():
            inputs = components.reference_input(pipeline, model)
            inputs |= components.prompt_input(pipeline, optional=False)
            inputs |= components.image_prompt_inputs(
                pipeline, pipeline.info.recommended.text_image_scale
            )
            buttons = components.run_buttons(strip=True)
            inputs |= layers_input(pipeline)
            inputs |= components.sampling_inputs(pipeline, count=4)
            inputs |= reference_slots()
        with gr.Column():
            results = components.results_column()
            examples(
                [inputs["reference"], inputs["prompt"]],
                [
                    ["checker-cube.png", "on a green striped floor"],
                    ["red-sphere.png", "a cone"],
                    ["dotted-cone.png", "with a yellow wall"],
                ],
            )
    tab = Tab(image_text, inputs | {"model": model.chosen}, widgets_from_request)
    connect(pipeline, tab, results, buttons)
    return tab

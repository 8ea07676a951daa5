"""A picture and words: the words edit what the picture says."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import MAX_WEIGHT, GenerateRequest, Reference
from ipadapter_demo.ui import components
from ipadapter_demo.ui.examples import examples
from ipadapter_demo.ui.running import Tab, connect


def image_text(
    *,
    reference: Image.Image | None,
    fit: Any,
    prompt: str,
    image_scale: float,
    second_reference: Image.Image | None = None,
    second_weight: float,
    **sampling: Any,
) -> GenerateRequest:
    """Pictures from a picture and a text.

    reference: the picture. prompt: the text. image_scale: λ, 0 follows only the text, 1 the
    picture as well, in between they share. second_reference: another picture, mixed in with
    second_weight. seed counts where random_seed is false. Returns PNG files that hold their whole
    request, a status line and the seed of the first picture.
    """
    if reference is None:
        raise RequestError("reference is missing: upload a picture first")
    references = [Reference(image=reference, fit=fit)]
    if second_reference is not None:
        references.append(Reference(image=second_reference, fit=fit, weight=second_weight))
    return GenerateRequest(
        prompt=prompt, references=tuple(references), image_scale=image_scale, **sampling
    )


def widgets_from_request(request: GenerateRequest) -> dict[str, Any]:
    """What the widgets of this tab, the sampling ones aside, show for a request."""
    first, *others = request.references
    second = others[0] if others else None
    return {
        "reference": first.image,
        "fit": first.fit,
        "prompt": request.prompt,
        "second_reference": second and second.image,
        "second_weight": second.weight if second else 1.0,
    }


def build(pipeline: ImagePromptPipeline) -> Tab:
    with gr.Row():
        with gr.Column():
            inputs = components.reference_input(pipeline)
            inputs |= components.prompt_input(pipeline, optional=False)
            inputs |= components.image_prompt_inputs(pipeline, pipeline.info.text_image_scale)
            buttons = components.run_buttons()
            inputs |= components.sampling_inputs(pipeline, count=4)
            with gr.Accordion("Mix in a second picture", open=False):
                inputs["second_reference"] = components.picture("Second picture")
                inputs["second_weight"] = components.slider(
                    0, MAX_WEIGHT, 1.0, 0.05, "Its weight beside the first picture's 1"
                )
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
    tab = Tab(image_text, inputs, widgets_from_request)
    connect(pipeline, tab, results, buttons)
    return tab

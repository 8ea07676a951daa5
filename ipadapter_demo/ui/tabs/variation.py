"""One picture in, pictures like it out."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import ReferenceFit
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.tab import Buttons, Results, Tab, Widgets
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.buttons import live_switch, run_buttons
from ipadapter_demo.ui.widgets.examples import examples
from ipadapter_demo.ui.widgets.opening import on_other_model, opening
from ipadapter_demo.ui.widgets.recommended import RECOMMENDED
from ipadapter_demo.ui.widgets.results import results_of
from ipadapter_demo.ui.widgets.start import start_inputs


def variation(
    *, reference: Image.Image | None = None, fit: ReferenceFit, image_scale: float, **sampling: Any
) -> GenerateRequest:
    """Pictures like one picture, without words. The settings are saved inside each PNG."""
    if reference is None:
        raise RequestError("reference is missing: upload a picture first")
    return GenerateRequest(
        references=(Reference(image=reference, fit=fit),), image_scale=image_scale, **sampling
    )


def widgets_from_request(request: GenerateRequest) -> dict[str, object]:
    """Values of this tab's widgets for a request, except the sampling ones."""
    [reference] = request.references
    return {"reference": reference.image, "fit": reference.fit}


def layout(manager: ModelManager, model: ModelInput) -> tuple[Widgets, Results, Buttons]:
    finished = opening(manager)
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="inputs"):
            inputs = components.reference_input(
                manager, model, shown=finished.reference if finished else None
            )
            inputs |= components.image_prompt_inputs(
                manager, manager.info.recommended.image_scale, words=False
            )
            inputs |= live_switch(manager.info)
            pictures = ("red-sphere", "blue-cone", "checker-cube", "two-solids")
            examples("variation", [inputs["reference"]], [[f"{name}.png"] for name in pictures])
        with gr.Column(elem_classes="outcome"):
            buttons = run_buttons("variation", live=True)
            results = results_of("variation", opening=finished)
        with gr.Column(elem_classes="settings"):
            inputs |= components.sampling_inputs(manager, count=4)
            inputs |= start_inputs()
    if finished is not None:
        on_other_model(finished, model, results)
    return inputs, results, buttons


def makes(request: GenerateRequest) -> bool:
    alone = len(request.references) == 1 and not request.prompt
    plain = alone and request.references[0].image is not None
    return plain and not request.structures and request.inpaint is None


TAB = Tab(
    label="Variation",
    translate=variation,
    widgets_from_request=widgets_from_request,
    makes=makes,
    recommended=RECOMMENDED,
    layout=layout,
)

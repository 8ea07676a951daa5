"""Paint over a part of a picture, and that part is drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import ReferenceFit
from ipadapter_demo.masks import MaskMeans
from ipadapter_demo.outpainting import SIDES, outpaint
from ipadapter_demo.request import MAX_FEATHER, GenerateRequest, Inpaint, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.tab import Buttons, Results, Tab, Widgets
from ipadapter_demo.ui.run.uploads import MAX_INPAINT_SIDE, Painting
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.buttons import run_buttons
from ipadapter_demo.ui.widgets.examples import examples
from ipadapter_demo.ui.widgets.inpainting import context_input, seam_inputs
from ipadapter_demo.ui.widgets.mask_editor import mask_editor, mask_edits
from ipadapter_demo.ui.widgets.masks import mask_input
from ipadapter_demo.ui.widgets.recommended import RECOMMENDED
from ipadapter_demo.ui.widgets.results import results_of

EXTEND = tuple(f"extend_{side}" for side in SIDES)


def inpaint(
    *,
    painting: Painting | None = None,
    mask: Image.Image | None = None,
    mask_means: MaskMeans = "white",
    mask_invert: bool = False,
    mask_grow: int | None = None,
    reference: Image.Image | None = None,
    fit: ReferenceFit,
    prompt: str,
    image_scale: float,
    strength: float,
    feather: int,
    repaint_passes: int = 1,
    context: float = 1.0,
    background_weight: float = 0.0,
    extend_left: int | None = None,
    extend_top: int | None = None,
    extend_right: int | None = None,
    extend_bottom: int | None = None,
    **sampling: Any,
) -> GenerateRequest:
    """A picture with the part under a mask drawn anew, or extended beyond its edges; every other
    pixel stays as it is. reference and prompt give the looks. The settings are saved inside each
    PNG."""
    if painting is None:
        raise RequestError("painting is missing: upload a picture, then paint over a part of it")
    extend = (extend_left, extend_top, extend_right, extend_bottom)
    by: dict[str, Any] = {side: n or 0 for side, n in zip(SIDES, extend, strict=True)}
    make: Callable[..., Inpaint] = partial(outpaint, **by) if any(by.values()) else Inpaint
    given = make(
        image=painting.image,
        mask=painting.mask_with(mask, mask_means, mask_invert is True, mask_grow or 0),
        strength=strength,
        feather=feather,
        repaint_passes=repaint_passes,
        context=context,
        background_weight=background_weight,
    )
    if max(given.image.size) > MAX_INPAINT_SIDE:
        raise RequestError(
            f"extend must lead to at most {MAX_INPAINT_SIDE} pixels on a side, "
            f"got {given.image.width}x{given.image.height}"
        )
    return GenerateRequest(
        prompt=prompt,
        references=(Reference(image=reference, fit=fit),) if reference else (),
        image_scale=image_scale,
        inpaint=given,
        **sampling,
    )


def widgets_from_request(request: GenerateRequest) -> dict[str, object]:
    """Values of this tab's widgets for a request, except the sampling ones."""
    given = request.inpaint
    assert given is not None
    reference = request.references[0] if request.references else None
    return {
        "painting": Painting(given.image, Image.new("L", given.image.size), given.image.size),
        "mask": given.mask,
        "mask_means": "white",
        "mask_invert": False,
        "mask_grow": 0,
        "reference": reference and reference.image,
        "fit": reference.fit if reference else "crop",
        "prompt": request.prompt,
        "strength": given.strength,
        "feather": given.feather,
        "repaint_passes": given.repaint_passes,
        "context": given.context,
        "background_weight": given.background_weight,
        **dict.fromkeys(EXTEND, 0),  # the canvas and its mask are there already
    }


def layout(manager: ModelManager, model: ModelInput) -> tuple[Widgets, Results, Buttons]:
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="inputs"):
            inputs: Widgets = {"painting": mask_editor()} | mask_edits()
            edits = {name: inputs[name] for name in ("mask_invert", "mask_grow")}
            with gr.Row(equal_height=True):
                inputs |= mask_input(
                    "mask",
                    "mask_means",
                    "Mask",
                    "or drop one",
                    inputs["painting"],
                    edits,
                    height=130,
                    scale=2,
                    elem_classes="mask",
                )
                inputs |= components.prompt_input(manager, scale=3)
            inputs |= components.reference_input(manager, model, optional=True)
            inputs |= components.image_prompt_inputs(manager, manager.info.recommended.image_scale)
            examples(
                "inpaint",
                [inputs[name] for name in ("painting", "mask", "reference", "prompt")],
                [
                    ["cube-and-cone.png", "cube-and-cone-mask.png", "red-sphere.png", ""],
                    ["cube-and-cone.png", "cube-and-cone-mask.png", None, "a green plain cube"],
                ],
            )
        with gr.Column(elem_classes="outcome"):
            buttons = run_buttons("inpaint")
            results = results_of("inpaint", comparison=True)
        with gr.Column(elem_classes="settings"):
            with gr.Row():
                inputs["strength"] = components.slider(
                    0.05, 1, 1.0, 0.05, "Denoising strength", info="1 = ignore original"
                )
                inputs["context"] = context_input(manager)
            with gr.Accordion("Edge and background of the mask", open=False):
                inputs["feather"] = components.slider(
                    0, MAX_FEATHER, 2, 1, "Mask feather (px)", info="inwards from its edge"
                )
                inputs |= seam_inputs(manager)
            with gr.Accordion("Outpainting: extend the picture, in pixels", open=False), gr.Row():
                for name, side in zip(EXTEND, SIDES, strict=True):
                    inputs[name] = gr.Number(0, label=side.title(), precision=0, min_width=80)
            inputs |= components.sampling_inputs(manager, count=1, prompt=False, painting=True)
    return inputs, results, buttons


def makes(request: GenerateRequest) -> bool:
    return request.inpaint is not None and not request.structures


TAB = Tab(
    label="Inpaint",
    translate=inpaint,
    widgets_from_request=widgets_from_request,
    makes=makes,
    recommended=RECOMMENDED
    | {
        "steps": lambda info: {
            "value": info.recommended.steps_for(False, True),
            "info": components.steps_hint(info, painting=True),
        },
        "guidance": lambda info: {"value": info.recommended.guidance_for(True)},
        "guidance_start": lambda info: {"value": info.recommended.guidance_window_for(True)[0]},
        "guidance_end": lambda info: {"value": info.recommended.guidance_window_for(True)[1]},
        "sampler": lambda info: {"value": info.recommended.sampler_for(True)},
    },
    layout=layout,
)

"""The places of things come from one picture, their looks from another."""

from __future__ import annotations

from contextlib import suppress
from functools import partial, wraps
from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import Fit, ReferenceFit
from ipadapter_demo.imaging import resize_image
from ipadapter_demo.masks import MaskMeans, flatten_mask
from ipadapter_demo.pipeline.sizes import same_shape
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.api import File, png_file, public
from ipadapter_demo.ui.run.api_fields import answer, parameters, picture_schema
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.model_input import ModelInput, previews_of
from ipadapter_demo.ui.run.tab import Buttons, Results, Tab, Widgets
from ipadapter_demo.ui.run.uploads import image_from_upload
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.buttons import run_buttons
from ipadapter_demo.ui.widgets.examples import examples, only_offered
from ipadapter_demo.ui.widgets.inpainting import context_input, seam_inputs
from ipadapter_demo.ui.widgets.masks import mask_input
from ipadapter_demo.ui.widgets.recommended import RECOMMENDED
from ipadapter_demo.ui.widgets.results import results_of
from ipadapter_demo.ui.widgets.slots import (
    slots_from_structures,
    structure_choices,
    structure_inputs,
    structure_of,
    structure_slots,
    structures_from_slots,
    window_inputs,
)
from ipadapter_demo.ui.widgets.start import start_inputs
from ipadapter_demo.ui.widgets.words import words_of_prompt


def structure(
    *,
    reference: Image.Image | None = None,
    fit: ReferenceFit,
    prompt: str,
    image_scale: float,
    changed: Image.Image | None = None,
    changed_mask: Image.Image | None = None,
    changed_mask_means: MaskMeans = "white",
    repaint_passes: int = 1,
    context: float = 1.0,
    background_weight: float = 0.0,
    **more: Any,
) -> GenerateRequest:
    """Pictures that keep the structure of a picture, or of up to three; reference and prompt give
    the looks. With changed and changed_mask only a part of a picture is drawn. The settings are
    saved inside each PNG."""
    if more.get("control") is None:
        raise RequestError("control is missing: upload the picture that says where things are")
    return GenerateRequest(
        prompt=prompt,
        references=(Reference(image=reference, fit=fit),) if reference else (),
        image_scale=image_scale,
        structures=structures_from_slots(more),
        inpaint=_inpaint(
            changed,
            changed_mask,
            changed_mask_means,
            repaint_passes=repaint_passes,
            context=context,
            background_weight=background_weight,
        ),
        **more,
    )


def _inpaint(
    changed: Image.Image | None, mask: Image.Image | None, means: MaskMeans, **how: Any
) -> Inpaint | None:
    if changed is None and mask is None:
        return None
    if changed is None or mask is None:
        missing = "changed" if changed is None else "changed_mask"
        raise RequestError(f"{missing} is missing: a picture to change and its mask go together")
    found = flatten_mask(mask, "changed_mask", means)
    if same_shape(found.size, changed.size):  # the picture was shrunk when it was uploaded
        found = resize_image(found, changed.size)
    return Inpaint(image=changed, mask=found, **how)


def widgets_from_request(request: GenerateRequest) -> dict[str, object]:
    """Values of this tab's widgets for a request, except the sampling ones."""
    given = request.inpaint
    reference = request.references[0] if request.references else None
    return {
        "reference": reference and reference.image,
        "fit": reference.fit if reference else "crop",
        "prompt": request.prompt,
        "changed": given and given.image,
        "changed_mask": given and given.mask,
        "changed_mask_means": "white",
        "repaint_passes": given and given.repaint_passes,
        "context": given and given.context,
        "background_weight": given and given.background_weight,
        **slots_from_structures(request.structures),
    }


def layout(manager: ModelManager, model: ModelInput) -> tuple[Widgets, Results, Buttons]:
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="inputs"):
            inputs, drawn = _control_inputs(structure_choices(manager.info))
            inputs |= components.prompt_input(manager)
            words_of_prompt(manager, model, inputs["prompt"])
            inputs |= components.reference_input(manager, model, optional=True)
            inputs |= components.image_prompt_inputs(
                manager, manager.info.recommended.map_image_scale
            )
            shown = examples(
                "structure",
                [inputs[name] for name in ("control", "reference", "prompt", "kind")],
                [
                    ["two-solids.png", "red-sphere.png", "", "canny/canny"],
                    ["checker-cube.png", None, "a purple cube on a blue floor", "canny/lineart"],
                    ["edges.png", "purple-cylinder.png", "", "canny/none"],
                    ["blue-cone.png", None, "a blue cylinder", "palette/palette"],
                ],
            )
            if shown is not None:
                only_offered(shown, model, partial(_kinds, manager))
        with gr.Column(elem_classes="outcome"):
            buttons = run_buttons("structure")
            results = results_of("structure")
        with gr.Column(elem_classes="settings"):
            with gr.Row():
                inputs |= window_inputs(1)
            inputs |= components.sampling_inputs(manager, count=1, prompt=False)
            inputs |= start_inputs()
            _draw_map(manager, model, inputs, drawn)
            inputs |= structure_slots(manager.info)
            with gr.Accordion("Inpaint: change only a part of a picture", open=False):
                with gr.Row():
                    inputs["changed"] = components.picture("Picture to change", height=150)
                    inputs |= mask_input(
                        "changed_mask",
                        "changed_mask_means",
                        "Mask",
                        "white where it\nis redrawn",
                        inputs["changed"],
                        height=150,
                    )
                inputs["context"] = context_input(manager)
                inputs |= seam_inputs(manager)
    return inputs, results, buttons


def _kinds(manager: ModelManager, name: str) -> list[str]:
    return [kind for _, kind in structure_choices(manager.info_beside(name))]


def _control_inputs(choices: list[tuple[str, str]]) -> tuple[Widgets, gr.Image]:
    inputs: Widgets = {}
    with gr.Row():
        inputs["control"] = components.picture("Control image")
        drawn = gr.Image(
            label="Control map (preview)",
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            elem_classes="filled",
            height=components.PICTURE_HEIGHT,
            min_width=140,
        )
    with gr.Row():
        inputs |= structure_inputs(choices, 1)
    return inputs, drawn


def _draw_map(manager: ModelManager, model: ModelInput, inputs: Widgets, drawn: gr.Image) -> None:
    """Keep `drawn` at the map that the chosen detector makes of the picture."""

    def structure_map(
        control: object = None,
        kind: str = "",
        control_fit: Fit = "crop",
        width: int | None = None,
        height: int | None = None,
        model: str = "",
    ) -> Image.Image | None:
        """The map that a detector makes of a picture, as /structure would see it."""
        image = image_from_upload(control, "control")
        if image is None or (previews := previews_of(manager, model)) is None:
            return None
        kept = structure_of(image, kind, fit=control_fit)
        request = GenerateRequest(structures=(kept,), width=width or None, height=height or None)
        return previews.structure_maps(request)[0]

    def shown_map(**values: Any) -> Image.Image | None:
        try:
            GenerateRequest(width=values["width"] or None, height=values["height"] or None)
        except RequestError:  # a size that is being typed
            return gr.skip()
        with shown_errors(), suppress(RequestError):  # Generate says it
            return structure_map(**values)
        return None

    @wraps(structure_map)
    def asked_map(**values: Any) -> File | None:
        with shown_errors():
            found = structure_map(**values)
            return None if found is None else png_file(found)

    shown = {name: inputs[name] for name in ("control", "kind", "control_fit", "width", "height")}
    # Detectors are not the model, and nobody waits for it here.
    queue: dict[str, object] = {"concurrency_id": "maps", "concurrency_limit": 2}
    endpoint(
        partial(gr.on, [*(widget.change for widget in shown.values()), model.shown.change]),
        shown_map,
        shown | {"model": model.chosen},
        drawn,
        show_progress="minimal",
        trigger_mode="always_last",
        api_visibility="private",
        **queue,
    )
    outputs = [answer(picture_schema(), "map")]
    public(asked_map, parameters(shown | {"model": model.chosen}), outputs, **queue)


def makes(request: GenerateRequest) -> bool:
    return bool(request.structures)


TAB = Tab(
    label="Structure",
    translate=structure,
    widgets_from_request=widgets_from_request,
    makes=makes,
    recommended=RECOMMENDED
    | {
        "image_scale": lambda info: {"value": info.recommended.map_image_scale},
        "steps": lambda info: (
            RECOMMENDED["steps"](info) | {"info": components.steps_hint(info, painting=False)}
        ),
    },
    layout=layout,
)

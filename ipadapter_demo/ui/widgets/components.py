"""Widgets that every tab shares, named as the request names their fields."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import ReferenceFit
from ipadapter_demo.imaging import read_image
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.pipeline.sizes import usual_sizes
from ipadapter_demo.request import (
    MAX_SEED,
    Reference,
)
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.size_limits import SIZE_STEP
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.model_input import ModelInput, previews_of
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.run.uploads import image_from_upload
from ipadapter_demo.ui.widgets.larger import upscale_inputs
from ipadapter_demo.ui.widgets.loras import loras_input
from ipadapter_demo.ui.widgets.prompts import prompt_settings
from ipadapter_demo.ui.widgets.samplers import sampler_inputs
from ipadapter_demo.ui.widgets.sliders import slider, window_sliders
from ipadapter_demo.ui.widgets.vaes import vae_input

# How an adapter is called where people choose one; any other appears under its own name.
ADAPTERS = {"base": "base, 4 tokens", "plus": "Plus, 16 tokens"}
FITS = [
    ("crop", "crop"),  # keeps the centre
    ("pad", "pad"),
    ("squash", "squash"),
    ("up to 4 squares", "tile"),
]

# The sides of a shape that was chosen. gradio sends `input` also when the field is merely left, and
# before `change`, which comes with each new shape: also with one that a restored PNG brings.
SIDES = """(shape) => {
    const left = { __type__: "update" };
    if (shape === (window.shapes?.[FIELD] ?? "")) return [left, left];
    return shape ? shape.split("x").map(Number) : [0, 0];
}"""
SHAPE = "(shape) => { (window.shapes ??= {})[FIELD] = shape; return []; }"

WRITE_LIKE = "a red striped sphere on a green plain floor with a blue wall"
PICTURE_HEIGHT = 200


def picture(label: str, placeholder: str = "Drop a picture here", **options: Any) -> gr.Image:
    """A picture to upload. Only `uploads` decodes it: see there."""
    usual: dict[str, object] = {
        "sources": ["upload", "clipboard", "webcam"],
        "buttons": ["fullscreen"],
        "height": PICTURE_HEIGHT,
    }
    return gr.Image(
        label=label, placeholder=placeholder, type="filepath", format="png", **usual | options
    )


def reference_input(
    pipeline: ModelManager,
    model: ModelInput,
    *,
    optional: bool = False,
    shown: Path | None = None,
) -> Widgets:
    """A picture as a prompt, `shown` at first, and beside it what of it reaches the encoder."""
    with gr.Row(equal_height=True):
        hint = "Drop a picture here\n(optional)" if optional else "Drop a picture here"
        reference = picture("Reference", hint, value=shown and str(shown), scale=3, min_width=200)
        with gr.Column(scale=2, min_width=140, elem_classes="beside"):
            view = gr.Image(
                _encoder_view(pipeline, shown) if shown else None,
                label="What CLIP sees",
                format="png",
                interactive=False,
                buttons=[],
                height=110,
                elem_classes="filled",
            )
            fit = gr.Dropdown(FITS, value="crop", label="Fit to a square")
    _keep_encoder_view(pipeline, model, reference, fit, view)
    return {"reference": reference, "fit": fit}


def image_prompt_inputs(
    pipeline: ModelManager, image_scale: float, *, words: bool = True
) -> Widgets:
    """λ, and which adapter reads the picture where the model has several. `words` says whether
    the tab has a prompt beside the picture."""
    adapters = pipeline.info.adapters
    choices = adapter_choices(pipeline.info)
    meaning = "0 ignores the picture, 1 follows it"
    if words:
        meaning += "; in between, the text counts more"
    with gr.Row():
        widgets: Widgets = {
            "image_scale": slider(
                0, 1.5, image_scale, 0.05, "Image strength λ", info=meaning, scale=3, min_width=200
            )
        }
        widgets["adapter"] = gr.Dropdown(
            choices,
            value=adapters[0],
            label="Adapter",
            info="closer to the picture, or freer",
            scale=2,
            min_width=180,
            visible=len(adapters) > 1,
        )
    return widgets


def adapter_choices(info: ModelInfo) -> list[tuple[str, str]]:
    return [(ADAPTERS.get(name, name), name) for name in info.adapters]


def words_known(info: ModelInfo) -> str | None:
    """The hint below a prompt: a sentence as a small model was trained on."""
    return f"Write like: {WRITE_LIKE}" if info.words else None


def prompt_input(pipeline: ModelManager, *, optional: bool = True, **layout: Any) -> Widgets:
    """The words, and which of them a model with a small world knows."""
    prompt = gr.Textbox(
        "",
        label="Prompt",
        info=words_known(pipeline.info),
        placeholder="what to draw" + " (optional)" * optional,
        lines=2,
        max_lines=4,
        elem_classes="prompt",
        **layout,
    )
    return {"prompt": prompt}


def sampling_inputs(
    pipeline: ModelManager, *, count: int, prompt: bool | None = None, painting: bool = False
) -> Widgets:
    """The settings of sampling. `prompt`: whether the tab asks for one; None: it takes none.
    `painting` goes into a picture that is given, which has a size."""
    info = pipeline.info
    guidance = info.recommended.guidance_for(painting)
    sampler = info.recommended.sampler_for(painting)
    steps = info.recommended.steps_for(bool(prompt), painting)
    hint = steps_hint(info, painting) if prompt is False else None
    widgets: Widgets = {}

    def steps_and_guidance() -> None:
        with gr.Row():
            widgets["steps"] = slider(1, 50, steps, 1, "Steps", info=hint)
            widgets["guidance"] = slider(1, 15, guidance, 0.5, "Guidance")

    if not painting:  # a mask has settings of its own
        steps_and_guidance()
    with gr.Accordion("Advanced", open=False):
        if painting:
            steps_and_guidance()
        widgets["count"] = slider(1, 8, count, 1, "Number of images")
        with gr.Row():
            widgets |= sampler_inputs(sampler, info.recommended.noise_schedule)
        with gr.Row():
            widgets["seed"] = gr.Number(
                0, label="Seed", info="of the first image", minimum=0, maximum=MAX_SEED
            )
            widgets["random_seed"] = gr.Checkbox(
                True, label="Random seed", info="each run draws a new one and shows it beside"
            )
        with gr.Row():
            window = info.recommended.guidance_window_for(painting)
            widgets |= window_sliders("guidance_start", "guidance_end", window, "guidance ")
        widgets["guidance_rescale"] = slider(
            0,
            1,
            0.0,
            0.05,
            "Guidance rescale",
            info="against overexposed pictures; 0.7 suits v-prediction models",
        )
        if not painting:
            widgets |= _size_inputs(info) | upscale_inputs()
        widgets["loras"] = loras_input(info)
        widgets["vae"] = vae_input(info)
        widgets |= prompt_settings(info)
        widgets["attention"] = gr.Checkbox(
            False, label="Show attention maps", info="takes a little longer"
        )
    return widgets


def steps_hint(info: ModelInfo, painting: bool) -> str | None:
    """What a prompt asks for, where that is another number than the one shown."""
    steps, usual = (info.recommended.steps_for(given, painting) for given in (True, False))
    return None if steps == usual else f"with a prompt {steps} are better"


def _size_inputs(info: ModelInfo) -> Widgets:
    """Width and height, and sizes of the model to fill them with."""
    with gr.Row():
        shape = gr.Dropdown(shape_choices(info), value="", label="Shape")
    with gr.Row():
        sides = {
            side: gr.Number(
                0, label=side.title(), step=SIZE_STEP, min_width=90, info="0 = automatic"
            )
            for side in ("width", "height")
        }
    filled, kept = (js.replace("FIELD", str(shape._id)) for js in (SIDES, SHAPE))
    shape.input(None, js=filled, inputs=shape, outputs=list(sides.values()), **AT_ONCE)
    shape.change(None, js=kept, inputs=shape, **AT_ONCE)
    return {"shape": shape, **sides}


def shape_choices(info: ModelInfo) -> list[tuple[str, str]]:
    """(what to call it, WxH) of the sizes that suit a model."""
    square, *others = (f"{width}x{height}" for width, height in usual_sizes(info.native_size))
    return [
        ("the model's own", ""),  # or that of the picture that is changed
        (square, square),
        *((size, size) for size in others),
    ]


def _encoder_view(manager: ModelManager, path: Path) -> Image.Image | None:
    previews = manager.previews(manager.info.name)
    return None if previews is None else previews.encoder_view(Reference(image=read_image(path)))


def _keep_encoder_view(
    pipeline: ModelManager, model: ModelInput, reference: gr.Image, fit: gr.Dropdown, view: gr.Image
) -> None:
    """Keep `view` at what the image encoder sees of `reference`."""

    def encoder_view(reference: object, fit: ReferenceFit, model: str) -> Image.Image | None:
        with shown_errors(), suppress(RequestError):  # Generate says it
            image = image_from_upload(reference, "reference")
            if image is not None and (previews := previews_of(pipeline, model)) is not None:
                return previews.encoder_view(Reference(image=image, fit=fit))
        return None

    endpoint(
        partial(gr.on, [reference.change, fit.change, model.shown.change]),
        encoder_view,
        {"reference": reference, "fit": fit, "model": model.chosen},
        view,
        show_progress="hidden",
        trigger_mode="always_last",
        concurrency_limit=4,  # it does not run the model
        api_visibility="private",
    )

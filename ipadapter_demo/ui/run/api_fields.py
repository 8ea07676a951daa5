"""The parameters of the endpoints for programs: a type, a default and a sentence for each."""

from __future__ import annotations

import re
from typing import Any, get_args

import gradio as gr
from gradio.components.api_component import Api

from ipadapter_demo.request import (
    MAX_CLIP_SKIP,
    MAX_COUNT,
    MAX_FEATHER,
    MAX_REPAINT_PASSES,
    MAX_SEED,
    MAX_STEPS,
)
from ipadapter_demo.sampling import NoiseSchedule
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.run.uploads import MAX_GROW

# What only the page has: a program gives the seed, and width and height, or leaves them open.
OF_THE_PAGE = {"random_seed", "shape", "live"}

Schema = dict[str, Any]  # of JSON
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
OPEN: Schema = {"anyOf": [WHOLE, {"type": "null"}]}
# Beside what the widgets know: the choices of these depend on the model, or on each other.
SCHEMAS: dict[str, Schema] = {
    "seed": OPEN,
    "width": OPEN,
    "height": OPEN,
    "adapter": TEXT,
    "reference_adapter": TEXT,
    "reference_layers": TEXT,
    "kind": TEXT,
    "loras": {"type": "array", "items": TEXT},
    "vae": TEXT,
    "noise_schedule": {"type": "string", "enum": list(get_args(NoiseSchedule))},
}
# Of a slot with a number, such as weight_2, by the name without it.
DESCRIPTIONS = {
    "reference": "A picture used as a prompt.",
    "fit": "A picture that is not square reaches the image encoder cropped, padded, squashed or as "
    "up to 4 squares (tile).",
    "weight": "Weight of the reference among several, from 0 to 2.",
    "mask": "Region mask: where the reference applies.",
    "mask_invert": "Draw all but the masked part.",
    "mask_grow": f"Pixels by which the mask grows, or shrinks below 0: -{MAX_GROW} to {MAX_GROW}.",
    "mask_means": "What the mask selects: what is white in it, or what is transparent.",
    "window_start": "Start, as a share of the steps from 0 to 1.",
    "window_end": "End, as a share of the steps from 0 to 1.",
    "only": "Use only for the image of this number, from 1; 0 for all images.",
    "negative": "Negative image prompt: results are unlike this reference.",
    "embeds": "Image embeds in place of the reference: a file that /image_embeds made. Those of a "
    "face may stand beside a reference.",
    "face": "The face that a FaceID adapter reads: 0 the largest, or its number from the left.",
    "clip_mask": "A picture as large as the reference, black where the encoder is not to see it.",
    "reference_adapter": "The image adapter that reads the reference; nothing: that of adapter.",
    "reference_layers": "The layers in which the reference acts; nothing: those of image_layers.",
    "negative_noise": "The first reference, faded into noise by 0 to 1, as negative image prompt.",
    "combine": "Several references: concat (concatenate) or average.",
    "prompt": "The text, in English.",
    "negative_prompt": "What to avoid, as text.",
    "prompt_syntax": "plain, or weighted for (word:1.3), [word], BREAK and texts of any length.",
    "prompt_2": "The text for SDXL's second text encoder; nothing is the same.",
    "negative_prompt_2": "What to avoid, for SDXL's second text encoder.",
    "clip_skip": f"How many of the text encoder's last layers are left out, 0 to {MAX_CLIP_SKIP}.",
    "image_scale": "λ, the weight of the picture as a prompt: 0 ignores it, 1 follows it.",
    "image_layers": "Apply to layers: a preset of the layers in which λ acts.",
    "adapter": "The image adapter by its name; the model's own is the default.",
    "control": "The control image, which says where things are.",
    "kind": "Control type as kind/detector, such as canny/canny; with the detector none the "
    "control image is the control map itself.",
    "control_fit": "A control image of another shape is cropped, padded or squashed.",
    "structure_weight": "Control weight, from 0 to 2.",
    "painting": "The picture of which a part is drawn anew.",
    "changed": "A picture of which only a part is drawn; it needs changed_mask.",
    "changed_mask": "That part, as a picture of the size of changed.",
    "changed_mask_means": "The region of changed_mask: what is white in it, or transparent.",
    "init_image": "A picture to start from instead of noise: image to image.",
    "strength": "Denoising strength; 1 ignores the start picture, or the original under the mask.",
    "extend_left": "Pixels by which the picture is extended to its left.",
    "extend_top": "Pixels by which the picture is extended at its top.",
    "extend_right": "Pixels by which the picture is extended to its right.",
    "extend_bottom": "Pixels by which the picture is extended at its bottom.",
    "feather": f"Mask feather in pixels, inwards, from 0 to {MAX_FEATHER}.",
    "repaint_passes": f"Repaint passes, for a cleaner seam: 1 to {MAX_REPAINT_PASSES}.",
    "context": "How much of the picture is seen and drawn: 0 the masked part alone, 1 all of it.",
    "background_weight": "Background image prompt: weight of the picture around the mask, 0 to 2.",
    "steps": f"Sampling steps, from 1 to {MAX_STEPS}.",
    "guidance": "Classifier-free guidance, from 1, which is none, to 30.",
    "guidance_start": "Guidance start, as a share of the steps from 0 to 1.",
    "guidance_end": "Guidance end, as a share of the steps from 0 to 1.",
    "guidance_rescale": "Against overexposure by guidance, from 0 to 1.",
    "count": f"Number of images, from 1 to {MAX_COUNT}.",
    "sampler": "The sampler.",
    "noise_schedule": "The noise levels at which steps are taken; default is the model's own.",
    "seed": f"Seed of the first image, from 0 to {MAX_SEED}; null draws one.",
    "width": "Width in pixels, a multiple of 8; null is the model's own.",
    "height": "Height in pixels, a multiple of 8; null is the model's own.",
    "upscale_factor": "1 draws once; above, to 4, the picture is enlarged and drawn once more.",
    "upscale_strength": "Denoising strength of this second pass, up to 1.",
    "enlarge": "The picture or its latents, as what is enlarged between the passes.",
    "loras": 'LoRAs of the model by their names, with a weight behind a colon: "style:0.7".',
    "vae": "The name of an autoencoder in the folder of models; nothing: the model's own.",
    "attention": "Also return attention maps: where each reference acted.",
    "model": "The model by its name; another than the last one is loaded first.",
}
_SLOT = re.compile(r"_(\d)$")


def parameters(widgets: Widgets) -> Widgets:
    """Inputs of an endpoint that takes what these widgets hold, with the same defaults."""
    return {
        name: _parameter(name, widget)
        for name, widget in widgets.items()
        if name not in OF_THE_PAGE
    }


def answer(schema: Schema, label: str) -> Api:
    """An output: a value of a JSON schema."""
    return Api(None, schema, label)


def picture_schema() -> Schema:
    """An uploaded file."""
    return gr.Image(render=False).api_info()


def _parameter(name: str, widget: gr.Component) -> Api:
    slot = None if name in DESCRIPTIONS else _SLOT.search(name)
    field = name if slot is None else _SLOT.sub("", name)
    text = DESCRIPTIONS[field] + (f" Of slot {slot[1]}." if slot else "")
    schema = SCHEMAS.get(field) or schema_of(widget)
    return parameter(name, text, schema, None if schema is OPEN else widget.value)


def parameter(name: str, text: str, schema: Schema, default: object) -> Api:
    """A described input of a JSON schema. What has no default need not be given either."""
    described = {"description": text, "additional_description": text}  # in JSON, and for people
    return Api(default, schema | described, name)


def schema_of(widget: gr.Component) -> Schema:
    if isinstance(widget, gr.Image | gr.ImageEditor | gr.File):
        return picture_schema()
    if isinstance(widget, gr.Number) or (isinstance(widget, gr.Slider) and widget.step == 1):
        return WHOLE
    return widget.api_info()

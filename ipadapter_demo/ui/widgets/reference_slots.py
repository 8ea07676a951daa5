"""Several references: numbered slots of widgets, and what they ask for.

The first slot's widgets are named as its fields, those of slot k the same with _k: reference and
reference_2, weight and weight_2. A slot without a picture and without embeds is empty. The first
reference is never negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo import checks
from ipadapter_demo.embeds import ENDING
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import shrink_to_area
from ipadapter_demo.masks import MaskMeans, flatten_mask
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.reference import negative_noise
from ipadapter_demo.request import MAX_COUNT, MAX_WEIGHT, Reference
from ipadapter_demo.size_limits import MAX_AREA
from ipadapter_demo.ui.run.tab import Properties, Widgets
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.layers import layer_choices
from ipadapter_demo.ui.widgets.masks import mask_input
from ipadapter_demo.ui.widgets.slots import slot, taken, window_inputs

REFERENCES = (1, 2, 3, 4)
# The values of a slot whose picture alone is given.
REFERENCE: dict[str, Any] = {
    "reference": None,
    "embeds": None,
    "fit": "crop",
    "clip_mask": None,
    "face": 0,
    "reference_adapter": "",
    "reference_layers": "",
    "weight": 1.0,
    "mask": None,
    "mask_means": "white",
    "window_start": 0.0,
    "window_end": 1.0,
    "negative": False,
    "only": 0,
}


def reference_slots(info: ModelInfo) -> Widgets:
    """More references, in an accordion, and how they come together."""
    widgets: Widgets = {}
    with gr.Accordion("More references", open=False):
        widgets["combine"] = gr.Radio(
            [("concatenate", "concat"), ("average", "average")],
            value="concat",
            label="Combine",
        )
        widgets["negative_noise"] = components.slider(
            0,
            1,
            0.0,
            0.05,
            "Negative noise",
            info="the first reference, faded into noise, as negative image prompt",
        )
        for k in REFERENCES:
            with gr.Accordion(f"Reference {k}", open=k == 2):
                widgets |= _reference_slot(k, info)
    return widgets


def _reference_slot(k: int, info: ModelInfo) -> Widgets:
    """The first picture itself and its fit stand elsewhere on the tab."""
    widgets: Widgets = {}
    with gr.Row():
        if k > 1:
            widgets[slot("reference", k)] = components.picture(f"Reference {k}", height=150)
        hint = "white where the\nreference applies"
        names = slot("mask", k), slot("mask_means", k)
        widgets |= mask_input(*names, "Region mask", hint, height=150)
    with gr.Row():
        widgets[slot("weight", k)] = components.slider(0, MAX_WEIGHT, 1.0, 0.05, "Weight")
        widgets |= window_inputs(k)
    with gr.Row():
        widgets[slot("only", k)] = gr.Number(
            0, label="Use only for image #", info="0 = all images", minimum=0
        )
        if k > 1:
            with gr.Column():
                widgets[slot("fit", k)] = gr.Dropdown(components.FITS, value="crop", label="Fit")
                widgets[slot("negative", k)] = gr.Checkbox(False, label="Negative image prompt")
    with gr.Row():
        widgets[slot("reference_adapter", k)] = gr.Dropdown(
            label="Adapter", info="that reads this reference", **adapter_properties(info)
        )
        widgets[slot("reference_layers", k)] = gr.Dropdown(
            label="Apply to layers", info="where this reference acts", **own_layers_properties(info)
        )
    widgets[slot("face", k)] = gr.Number(
        label="Face", info="0 = the largest; 1 = the leftmost", minimum=0, **face_properties(info)
    )
    with gr.Row():
        hint = "black is hidden\nfrom the encoder"
        widgets[slot("clip_mask", k)] = components.picture(
            "CLIP mask", hint, image_mode="L", sources=["upload"], height=150
        )
        widgets[slot("embeds", k)] = gr.File(
            label="Embeds in place of the picture",
            file_types=[ENDING],
            height=150,
        )
    return widgets


def adapter_properties(info: ModelInfo) -> Properties:
    choices = [("as above", ""), *components.adapter_choices(info)]
    return {"choices": choices, "value": "", "visible": len(info.adapters) > 1}


def face_properties(info: ModelInfo) -> Properties:
    return {"value": 0, "visible": bool(info.face_adapters)}


def own_layers_properties(info: ModelInfo) -> Properties:
    choices = [("as above", ""), *layer_choices(info)]
    return {"choices": choices, "value": "", "visible": len(choices) > 1}


def references_from_slots(values: dict[str, Any]) -> tuple[Reference, ...]:
    """The references of the slots; their values are taken out of `values`."""
    found, noise = [], values.pop("negative_noise", 0.0)
    count = checks.integer("count", values.get("count", 1), 1, MAX_COUNT)
    for k, given in taken(values, REFERENCE, REFERENCES, "reference", "embeds"):
        only = checks.integer(slot("only", k), given["only"], 0, count)
        found.append(
            Reference(
                image=given["reference"],
                embeds=given["embeds"],
                face=given["face"] or 0,
                fit=given["fit"],
                adapter=given["reference_adapter"] or None,
                layers=given["reference_layers"] or None,
                clip_mask=_mask(given["clip_mask"], slot("clip_mask", k)),
                weight=given["weight"],
                mask=_mask(given["mask"], slot("mask", k), given["mask_means"]),
                negative=given["negative"],
                window=(given["window_start"], given["window_end"]),
                only_image=only - 1 if only else None,
            )
        )
    if noise:
        first = found[0] if found else None
        if first is None or first.image is None:
            raise RequestError("negative_noise needs a picture in the first place")
        found.append(negative_noise(first, noise))
    return tuple(found)


def _mask(mask: Image.Image | None, field: str, means: MaskMeans = "white") -> Image.Image | None:
    """It travels inside the results, so it has no more pixels than the picture of a reference."""
    return mask and shrink_to_area(flatten_mask(mask, field, means), MAX_AREA)


def slots_from_references(references: Sequence[Reference]) -> dict[str, object]:
    """The values of the slots for the references of a request."""
    noise = _noise_of(references)
    values: dict[str, object] = {"negative_noise": noise}
    references = references[:-1] if noise else references
    for k, given in zip(REFERENCES, [*references, *[None] * len(REFERENCES)], strict=False):
        shown = dict(REFERENCE)
        if given is not None:
            start, end = given.window
            shown |= {
                "reference": given.image,
                "embeds": given.embeds,
                "face": given.face,
                "fit": given.fit,
                "clip_mask": given.clip_mask,
                "reference_adapter": given.adapter or "",
                "reference_layers": given.layers or "",
                "weight": given.weight,
                "mask": given.mask,
                "window_start": start,
                "window_end": end,
                "negative": given.negative,
                "only": 0 if given.only_image is None else given.only_image + 1,
            }
        if k == 1:
            del shown["negative"]
        values |= {slot(name, k): value for name, value in shown.items()}
    return values


def _noise_of(references: Sequence[Reference]) -> float:
    """That of the last reference, where it is the first picture in noise; else 0."""
    if len(references) < 2 or (first := references[0]).image is None:
        return 0.0
    last = replace(references[-1], adapter=first.adapter, layers=first.layers)  # once it had none
    return last.noise if last == negative_noise(first, last.noise) else 0.0

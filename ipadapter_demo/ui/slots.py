"""Several references and several structures: numbered slots of widgets, and what they ask for.

Slot k of a reference has the widgets reference_k, fit_k, weight_k, mask_k, means_k, from_k,
until_k, negative_k and only_k; slot k of a structure control_k, kind_k, control_fit_k,
strictness_k, start_k and end_k. An empty picture is an empty slot. The tab's own picture is
reference 1, without fit and negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from ipadapter_demo.errors import RequestError
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.models.annotators import DETECTORS
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import MAX_WEIGHT, Reference, Structure
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui import components
from ipadapter_demo.ui.masks import mask_input
from ipadapter_demo.ui.running import Widgets

REFERENCES = (2, 3, 4)  # beside the tab's own, which is the first
FIELDS = ("reference", "fit", "weight", "mask", "means", "from", "until", "negative", "only")
STRUCTURES = (2, 3)
MAP_FITS = [("crop it", "crop"), ("pad it", "pad"), ("squash it", "squash")]

# How a detector is called where people choose one; any other appears under its own name.
LABELS = {
    "canny/canny": "edges",
    "canny/lineart": "edges, as line art",
    "canny/none": "edges; the picture is the map",
    "t2i-canny/canny": "edges, by a T2I-Adapter",
    "t2i-canny/lineart": "edges, as line art, by a T2I-Adapter",
    "t2i-canny/none": "edges, by a T2I-Adapter; the picture is the map",
    "palette/palette": "colours, as a coarse palette",
    "palette/none": "colours; the picture is the palette",
}


def reference_slots() -> Widgets:
    """More pictures, in an accordion, and how they come together."""
    widgets: Widgets = {}
    with gr.Accordion("More pictures", open=False):
        widgets["combine"] = gr.Radio(
            [("side by side", "concat"), ("as their mean", "average")],
            value="concat",
            label="Several pictures count",
        )
        for k in (1, *REFERENCES):
            with gr.Accordion("The first picture" if k == 1 else f"Picture {k}", open=k == 2):
                widgets |= _reference_slot(k)
    return widgets


def _reference_slot(k: int) -> Widgets:
    widgets: Widgets = {}
    with gr.Row():
        if k > 1:
            widgets[f"reference_{k}"] = components.picture(f"Picture {k}", height=150)
        widgets |= mask_input(
            f"mask_{k}", f"means_{k}", "Only here", "a mask of where it\nhas a say", height=150
        )
    with gr.Row():
        widgets[f"weight_{k}"] = components.slider(0, MAX_WEIGHT, 1.0, 0.05, "Weight")
        widgets[f"from_{k}"] = components.slider(0, 1, 0.0, 0.05, "Acts from")
        widgets[f"until_{k}"] = components.slider(0, 1, 1.0, 0.05, "until")
    with gr.Row():
        widgets[f"only_{k}"] = gr.Number(
            0, label="Only for result number", info="0: for all of them", minimum=0
        )
        if k > 1:
            with gr.Column():
                widgets[f"fit_{k}"] = gr.Dropdown(components.FITS, value="crop", label="Fit")
                widgets[f"negative_{k}"] = gr.Checkbox(False, label="Move away from it")
    return widgets


def structure_slots(info: ModelInfo) -> Widgets:
    """More maps, in an accordion."""
    widgets: Widgets = {}
    choices = structure_choices(info)
    first = choices[0][1] if choices else None
    with gr.Accordion("More structure", open=False):
        for k in STRUCTURES:
            with gr.Row():
                widgets[f"control_{k}"] = components.picture(f"Structure {k} of", height=150)
                with gr.Column():
                    widgets[f"kind_{k}"] = gr.Dropdown(choices, value=first, label="Keep")
                    widgets[f"control_fit_{k}"] = map_fit_input()
                    widgets[f"strictness_{k}"] = components.slider(
                        0, MAX_WEIGHT, 1.0, 0.05, "How strictly"
                    )
            with gr.Row():
                widgets[f"start_{k}"] = components.slider(0, 1, 0.0, 0.05, "Structure from")
                widgets[f"end_{k}"] = components.slider(0, 1, 1.0, 0.05, "until")
    return widgets


def take(values: dict[str, Any], names: Iterable[str], slots: Sequence[int]) -> dict[str, Any]:
    """Remove the values of slots from `values`; those that a caller leaves out have defaults."""
    return {
        f"{name}_{k}": values.pop(f"{name}_{k}")
        for name in names
        for k in slots
        if f"{name}_{k}" in values
    }


def references_from_slots(first: Any, fit: Any, values: dict[str, Any]) -> tuple[Reference, ...]:
    """The tab's own picture and those of the slots, whose values are taken out of `values`."""
    slots = (1, *REFERENCES)
    taken = take(values, FIELDS, slots) | {"reference_1": first, "fit_1": fit}
    found = []
    for k in slots:
        if (image := taken.get(f"reference_{k}")) is not None:
            only, mask = taken.get(f"only_{k}", 0), taken.get(f"mask_{k}")
            if mask is not None:
                mask = flatten_mask(mask, f"mask_{k}", taken.get(f"means_{k}", "white"))
            found.append(
                Reference(
                    image=image,
                    fit=taken.get(f"fit_{k}", fit),
                    weight=taken.get(f"weight_{k}", 1.0),
                    mask=mask,
                    negative=taken.get(f"negative_{k}", False),
                    window=(taken.get(f"from_{k}", 0.0), taken.get(f"until_{k}", 1.0)),
                    only_image=only - 1 if only else None,
                )
            )
    return tuple(found)


def slots_from_references(references: Sequence[Reference]) -> dict[str, Any]:
    """What the slots show for the references of a request."""
    values: dict[str, Any] = {}
    for place, k in enumerate((1, *REFERENCES)):
        given = references[place] if place < len(references) else None
        if k > 1:
            values |= {
                f"reference_{k}": given and given.image,
                f"fit_{k}": given.fit if given else "crop",
                f"negative_{k}": given.negative if given else False,
            }
        values |= {
            f"mask_{k}": given and given.mask,
            f"means_{k}": "white",
            f"weight_{k}": given.weight if given else 1.0,
            f"from_{k}": given.window[0] if given else 0.0,
            f"until_{k}": given.window[1] if given else 1.0,
            f"only_{k}": given.only_image + 1 if given and given.only_image is not None else 0,
        }
    return values


def structures_from_slots(values: dict[str, Any]) -> list[Structure]:
    """The structures of the slots; their values are taken out of `values`."""
    taken = take(
        values, ("control", "kind", "control_fit", "strictness", "start", "end"), STRUCTURES
    )
    found = []
    for k in STRUCTURES:
        kept = structure_of(
            taken.get(f"control_{k}"),
            taken.get(f"kind_{k}"),
            weight=taken.get(f"strictness_{k}", 1.0),
            fit=taken.get(f"control_fit_{k}", "crop"),
            window=(taken.get(f"start_{k}", 0.0), taken.get(f"end_{k}", 1.0)),
        )
        found += [] if kept is None else [kept]
    return found


def slots_from_structures(structures: Sequence[Structure], unused: str) -> dict[str, Any]:
    """The values of the slots for structures beside the first; empty ones show the kind
    `unused`."""
    values: dict[str, Any] = {}
    for place, k in enumerate(STRUCTURES):
        given = structures[place] if place < len(structures) else None
        values |= {
            f"control_{k}": given and given.image,
            f"kind_{k}": f"{given.kind}/{given.annotator}" if given else unused,
            f"control_fit_{k}": given.fit if given else "crop",
            f"strictness_{k}": given.weight if given else 1.0,
            f"start_{k}": given.window[0] if given else 0.0,
            f"end_{k}": given.window[1] if given else 1.0,
        }
    return values


def structure_of(control: Any, choice: object, **how: Any) -> Structure | None:
    """None without a picture. `choice` is kind/detector."""
    if control is None:
        return None
    if not isinstance(choice, str) or choice.count("/") != 1:
        raise RequestError(f"kind must be kind/detector, such as canny/none, got {choice!r:.80}")
    kind, annotator = choice.split("/")
    return Structure(image=control, kind=kind, annotator=annotator, **how)


def map_fit_input() -> gr.Dropdown:
    """What becomes of a picture that has not the proportions of the result."""
    return gr.Dropdown(MAP_FITS, value="crop", label="If it has another shape", min_width=120)


def structure_choices(info: ModelInfo) -> list[tuple[str, str]]:
    """(what to call it, kind/detector); empty for a model without structure networks."""
    return [
        (_label(kind, annotator), f"{kind}/{annotator}")
        for kind, annotators in info.structures.items()
        for annotator in annotators
    ]


def layers_input(manager: ModelManager) -> Widgets:
    """Where λ acts. Only SD 1.5's and SDXL's layers are known by what they do."""
    presets = [
        ("everything", "all"),
        ("style only", "style"),
        ("layout only", "layout"),
        ("style and layout", "style+layout"),
    ]
    return {
        "image_layers": gr.Dropdown(
            presets,
            value="all",
            label="The picture gives",
            visible=manager.info.layer_presets,
        )
    }


def _label(kind: str, annotator: str) -> str:
    """A detector that is a network says what it fetches when it is first used."""
    if annotator == "none":
        plain = f"{kind}; the picture is the map"
    else:
        plain = kind if kind == annotator else f"{kind}, by {annotator}"
    network = DETECTORS[annotator].weights if annotator in DETECTORS else None
    fetches = f" (fetches {network.megabytes} MB, once)" if network else ""
    return LABELS.get(f"{kind}/{annotator}", plain) + fetches

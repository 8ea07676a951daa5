"""Several references and several structures: numbered slots of widgets, and what they ask for.

The first slot's widgets are named as its fields, those of slot k the same with _k: reference and
reference_2, weight and weight_2, window_start and window_start_2. An empty picture is an empty
slot. The first reference is never negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.models.annotators import DETECTORS
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import MAX_COUNT, MAX_WEIGHT, Reference, Structure
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.masks import mask_input
from ipadapter_demo.ui.widgets.sliders import window_sliders

REFERENCES = (1, 2, 3, 4)
STRUCTURES = (1, 2, 3)
# The values of a slot whose picture alone is given.
REFERENCE: dict[str, Any] = {
    "reference": None,
    "fit": "crop",
    "weight": 1.0,
    "mask": None,
    "mask_means": "white",
    "window_start": 0.0,
    "window_end": 1.0,
    "negative": False,
    "only": 0,
}
STRUCTURE: dict[str, Any] = {
    "control": None,
    "kind": None,
    "control_fit": "crop",
    "structure_weight": 1.0,
    "window_start": 0.0,
    "window_end": 1.0,
}
MAP_FITS = ["crop", "pad", "squash"]

# How a detector is called where people choose one; any other appears under its own name.
LABELS = {
    "canny/canny": "Canny",
    "canny/lineart": "Canny (line-art detector)",
    "canny/none": "Canny (image is already an edge map)",
    "t2i-canny/canny": "Canny (T2I-Adapter)",
    "t2i-canny/lineart": "Canny (T2I-Adapter, line-art detector)",
    "t2i-canny/none": "Canny (T2I-Adapter, image is already an edge map)",
    "palette/palette": "Colour palette",
    "palette/none": "Colour palette (image is already a palette)",
}


def slot(name: str, k: int) -> str:
    """The name of a widget of slot k."""
    return name if k == 1 else f"{name}_{k}"


def reference_slots() -> Widgets:
    """More pictures, in an accordion, and how they come together."""
    widgets: Widgets = {}
    with gr.Accordion("More references", open=False):
        widgets["combine"] = gr.Radio(
            [("concatenate", "concat"), ("average", "average")],
            value="concat",
            label="Combine",
        )
        for k in REFERENCES:
            with gr.Accordion(f"Reference {k}", open=k == 2):
                widgets |= _reference_slot(k)
    return widgets


def _reference_slot(k: int) -> Widgets:
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
    return widgets


def window_inputs(k: int) -> Widgets:
    """The part of the steps during which a slot acts."""
    return window_sliders(slot("window_start", k), slot("window_end", k))


def structure_slots(info: ModelInfo) -> Widgets:
    """More maps, in an accordion."""
    widgets: Widgets = {}
    with gr.Accordion("More control images", open=False):
        for k in STRUCTURES[1:]:
            with gr.Row():
                widgets[slot("control", k)] = components.picture(f"Control image {k}", height=150)
                with gr.Column():
                    widgets |= structure_inputs(structure_choices(info), k)
            with gr.Row():
                widgets |= window_inputs(k)
    return widgets


def structure_inputs(choices: list[tuple[str, str]], k: int) -> Widgets:
    """The kind of structure to keep of a picture, its fit, and its weight."""
    return {
        slot("kind", k): gr.Dropdown(
            choices, value=choices[0][1] if choices else None, label="Control type"
        ),
        slot("control_fit", k): gr.Dropdown(
            MAP_FITS, value="crop", label="Fit to the result", min_width=120
        ),
        slot("structure_weight", k): components.slider(
            0, MAX_WEIGHT, 1.0, 0.05, "Control weight", scale=2, min_width=200
        ),
    }


def references_from_slots(values: dict[str, Any]) -> tuple[Reference, ...]:
    """The references of the slots; their values are taken out of `values`."""
    found = []
    count = checks.integer("count", values.get("count", 1), 1, MAX_COUNT)
    for k, given in _taken(values, REFERENCE, REFERENCES):
        mask, only = given["mask"], given["only"]
        only = checks.integer(slot("only", k), only, 0, count)
        if mask is not None:
            mask = flatten_mask(mask, slot("mask", k), given["mask_means"])
        found.append(
            Reference(
                image=given["reference"],
                fit=given["fit"],
                weight=given["weight"],
                mask=mask,
                negative=given["negative"],
                window=(given["window_start"], given["window_end"]),
                only_image=only - 1 if only else None,
            )
        )
    return tuple(found)


def slots_from_references(references: Sequence[Reference]) -> dict[str, object]:
    """The values of the slots for the references of a request."""
    values: dict[str, object] = {}
    for k, given in zip(REFERENCES, [*references, *[None] * len(REFERENCES)], strict=False):
        shown = dict(REFERENCE)
        if given is not None:
            start, end = given.window
            shown |= {
                "reference": given.image,
                "fit": given.fit,
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


def structures_from_slots(values: dict[str, Any]) -> tuple[Structure, ...]:
    """The structures of the slots; their values are taken out of `values`."""
    return tuple(
        structure_of(
            given["control"],
            given["kind"],
            weight=given["structure_weight"],
            fit=given["control_fit"],
            window=(given["window_start"], given["window_end"]),
        )
        for _, given in _taken(values, STRUCTURE, STRUCTURES)
    )


def slots_from_structures(structures: Sequence[Structure]) -> dict[str, object]:
    """The values of the slots for the structures of a request; empty slots show the kind of the
    first."""
    values: dict[str, object] = {}
    for k, given in zip(STRUCTURES, [*structures, *[None] * len(STRUCTURES)], strict=False):
        shown = STRUCTURE | {"kind": _kind_of(structures[0])}
        if given is not None:
            start, end = given.window
            shown |= {
                "control": given.image,
                "kind": _kind_of(given),
                "control_fit": given.fit,
                "structure_weight": given.weight,
                "window_start": start,
                "window_end": end,
            }
        values |= {slot(name, k): value for name, value in shown.items()}
    return values


def structure_of(control: Image.Image, choice: object, **how: Any) -> Structure:
    """`choice` is kind/detector."""
    if not isinstance(choice, str) or choice.count("/") != 1:
        raise RequestError(f"kind must be kind/detector, such as canny/none, got {choice!r:.80}")
    kind, annotator = choice.split("/")
    return Structure(image=control, kind=kind, annotator=annotator, **how)


def structure_choices(info: ModelInfo) -> list[tuple[str, str]]:
    """(what to call it, kind/detector); empty for a model without structure networks."""
    return [
        (_label(kind, annotator), f"{kind}/{annotator}")
        for kind, annotators in info.structures.items()
        for annotator in annotators
    ]


def _taken(
    values: dict[str, Any], defaults: Mapping[str, Any], slots: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every slot with a picture, and its values, which are taken out of `values`; those that a
    caller leaves out have defaults."""
    picture = next(iter(defaults))
    for k in slots:
        given = {name: values.pop(slot(name, k), value) for name, value in defaults.items()}
        if given[picture] is not None:
            yield k, given


def _kind_of(structure: Structure) -> str:
    return f"{structure.kind}/{structure.annotator}"


def _label(kind: str, annotator: str) -> str:
    """A detector that is a network says what it fetches when it is first used."""
    if annotator == "none":
        plain = f"{kind} (image is already the map)"
    else:
        plain = kind if kind == annotator else f"{kind} ({annotator} detector)"
    network = DETECTORS[annotator].weights if annotator in DETECTORS else None
    fetches = f" (fetches {network.megabytes} MB, once)" if network else ""
    return LABELS.get(f"{kind}/{annotator}", plain) + fetches

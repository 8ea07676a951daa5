"""Several structures: numbered slots of widgets, and what they ask for.

The first slot's widgets are named as its fields, those of slot k the same with _k: kind and kind_2,
window_start and window_start_2. An empty picture is an empty slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import MAX_WEIGHT, Structure
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.sliders import window_sliders

STRUCTURES = (1, 2, 3)
# The values of a slot whose picture alone is given.
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
            choices,
            value=choices[0][1] if choices else None,
            label="Control type",
            scale=2,
            min_width=320,
        ),
        slot("control_fit", k): gr.Dropdown(
            MAP_FITS, value="crop", label="Fit to the result", min_width=120
        ),
        slot("structure_weight", k): components.slider(
            0, MAX_WEIGHT, 1.0, 0.05, "Control weight", scale=2, min_width=200
        ),
    }


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
        for _, given in taken(values, STRUCTURE, STRUCTURES, "control")
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
        (_label(info, kind, annotator), f"{kind}/{annotator}")
        for kind, annotators in info.structures.items()
        for annotator in annotators
    ]


def taken(
    values: dict[str, Any], defaults: Mapping[str, Any], slots: Sequence[int], *fills: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every slot in which a widget named in `fills` has something, and its values, which are taken
    out of `values`; those that a caller leaves out have defaults."""
    for k in slots:
        given = {name: values.pop(slot(name, k), value) for name, value in defaults.items()}
        if any(given[name] is not None for name in fills):
            yield k, given


def _kind_of(structure: Structure) -> str:
    return f"{structure.kind}/{structure.annotator}"


def _label(info: ModelInfo, kind: str, annotator: str) -> str:
    """With what the first use of the network and its detector fetches, if that is missing."""
    if annotator == "none":
        plain = f"{kind} (image is already the map)"
    else:
        plain = kind if kind == annotator else f"{kind} ({annotator} detector)"
    choice, note = f"{kind}/{annotator}", info.structure_notes.get(kind)
    said = f": {note}" if note else ""
    return LABELS.get(choice, plain) + said + info.structure_costs.get(choice, "")

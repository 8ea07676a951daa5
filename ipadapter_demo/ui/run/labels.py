"""Errors in the words of the page: a field is called as its widget is labelled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

from ipadapter_demo.errors import RequestError
from ipadapter_demo.outpainting import SIDES
from ipadapter_demo.ui.run.tab import Widgets

T = TypeVar("T")

# Widgets of the fields that bear another name in a request.
WIDGETS = {
    "reference.image": "reference",
    "reference.only_image": "only",
    "reference.noise": "negative_noise",
    "structure.image": "control",
    "structure.kind": "kind",
    "structure.fit": "control_fit",
    "structure.weight": "structure_weight",
    "inpaint.image": "painting",
    **{f"extend.{side}": f"extend_{side}" for side in SIDES},
    **{side: f"{side}_axis" for side in ("columns", "rows", "pages")},
}
# Of two widgets.
WINDOWS = {
    "guidance_window": "Guidance start / end",
    "reference.window": "Start / end",
    "structure.window": "Start / end",
    "extend": "Outpainting",
}
_FIELD = re.compile(r"(cell \S+: )?([a-z_]+(?:_\d)?(?:\.[a-z_]+)?)")
_EMPTY = re.compile(r" must be a (whole )?number, got None$")
_SLOT = re.compile(r"_(\d)$")


def with_labels(updates: Iterator[T], inputs: Widgets) -> Iterator[T]:
    """The same updates; an error about a field names it by its label among `inputs`."""
    try:
        yield from updates
    except RequestError as error:
        raise RequestError(labelled(str(error), inputs)) from error


def labelled(message: str, inputs: Widgets) -> str:
    """A message that begins with a field, as “Control weight” must be from ..., with its label;
    that of a cell begins with the cell."""
    found = _FIELD.match(message)
    label = found and (WINDOWS.get(found[2]) or _label(found[2], inputs))
    if not found or not label:
        return message
    said = _EMPTY.sub(" is missing", message[found.end() :])
    return f"{found[1] or ''}“{label}”{said}"


def _label(field: str, inputs: Widgets) -> str | None:
    part = field.rpartition(".")[2]
    names = (WIDGETS.get(field), field, part, f"changed_{part}", field.partition(".")[0])
    name = next((name for name in names if name in inputs), None)
    if name is None or not inputs[name].label:
        return None
    slot, label = _SLOT.search(name), str(inputs[name].label)
    label = re.sub(r"( \(|, |: ).*", "", label)  # units, and advice
    return f"{label} {slot[1]}" if slot and slot[1] not in label else label

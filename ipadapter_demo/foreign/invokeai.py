"""InvokeAI's metadata: a flat JSON object. Reference images stand in three places, by version: with
`ipAdapters` up to 4, on a canvas in 5, as `ref_images` from 6 on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ipadapter_demo.foreign.json_text import object_from_text
from ipadapter_demo.foreign.names import METHODS
from ipadapter_demo.foreign.settings import Collector, ForeignSettings
from ipadapter_demo.foreign.weights import weights_of_invokeai

FIELDS = {
    "positive_prompt": ("prompt", "prompt"),
    "negative_prompt": ("negative prompt", "negative_prompt"),
    "steps": ("steps", "steps"),
    "cfg_scale": ("guidance", "guidance"),
    "cfg_rescale_multiplier": ("guidance rescale", "guidance_rescale"),
    "seed": ("seed", "seed"),
}
PROMPTS = ("prompt", "negative_prompt")
SILENT = {"app_version", "generation_mode", "rand_device", "canvas_v2_metadata"}


def settings(text: str) -> ForeignSettings | None:
    """None for a text of another kind."""
    values = object_from_text(text)
    if values is None:
        return None
    found = Collector("InvokeAI")
    for name, (what, field) in FIELDS.items():
        if (value := values.pop(name, None)) is not None:
            found.take(what, **{field: value})
            if field in PROMPTS and field in found.fields:
                weights_of_invokeai(found, what, value)
    if isinstance(scheduler := values.pop("scheduler", None), str):
        plain = scheduler.removesuffix("_k")
        found.sampling(plain, "karras" if plain != scheduler else "")
    width, height = values.pop("width", None), values.pop("height", None)
    if width is not None and height is not None:
        found.take("size", width=width, height=height)
    for one in _lists(values, "loras"):
        weight = one.get("weight", 1.0)
        model = one.get("model", one.get("lora"))
        found.lora(_name(model), weight if isinstance(weight, (int, float)) else 0.0)
    for reference in _references(values):
        _adapter(found, reference)
        found.leave("reference", f"{_image(reference)} is not in the file: give it")
    for name, value in values.items():
        if name not in SILENT and value not in (None, "", [], {}):
            found.leave(name, _name(value) if isinstance(value, dict) else value)
    return found.found()


def _references(values: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those that are enabled; taken out of `values`."""
    yield from _lists(values, "ipAdapters")
    canvas = values.get("canvas_v2_metadata")
    on_canvas = _lists(dict(canvas), "referenceImages") if isinstance(canvas, dict) else ()
    for one in (*on_canvas, *_lists(values, "ref_images")):
        inner = one.get("ipAdapter", one.get("config"))
        known = isinstance(inner, dict) and inner.get("type", "ip_adapter") == "ip_adapter"
        if known and one.get("isEnabled", True):
            yield inner


def _lists(values: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    given = values.pop(name, None)
    return (one for one in (given if isinstance(given, list) else ()) if isinstance(one, dict))


def _window(reference: Mapping[str, Any]) -> tuple[object, object]:
    both = reference.get("beginEndStepPct")
    if isinstance(both, list) and len(both) == 2:
        return both[0], both[1]
    return reference.get("begin_step_percent", 0.0), reference.get("end_step_percent", 1.0)


def _adapter(found: Collector, reference: Mapping[str, Any]) -> None:
    begin, end = _window(reference)
    method = reference.get("method")
    preset = METHODS.get(method) if isinstance(method, str) else None
    name, weight = _name(_model(reference)), reference.get("weight", 1.0)
    if not found.reference(name, weight, begin, end, preset or method):
        return
    if preset is not None:
        found.take("layers", image_layers=preset)
    elif method is not None:
        found.leave("layers", method)


def _model(reference: Mapping[str, Any]) -> object:
    return reference.get("ip_adapter_model", reference.get("model"))


def _image(reference: Mapping[str, Any]) -> str:
    image = reference.get("image")
    if isinstance(image, dict) and isinstance(name := image.get("image_name"), str):
        return name
    return "the picture"


def _name(model: object) -> str:
    """Of a model; before version 4 models had a `model_name`."""
    if not isinstance(model, dict):
        return str(model)
    name = model.get("name", model.get("model_name"))
    return name if isinstance(name, str) else str(model)

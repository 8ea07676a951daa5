"""From a result's PNG, or a comparison's manifest, back to the widgets that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import gradio as gr

from ipadapter_demo.compare import Bundle, spec_from_manifest
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_bytes
from ipadapter_demo.pipeline import Studio
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.ui.compare import CompareTab
from ipadapter_demo.ui.models import FIELDS, depending
from ipadapter_demo.ui.running import LANE, Tab, shown_errors
from ipadapter_demo.ui.uploads import Painting, editor_value_from_image, path_of_upload


def restore_button(studio: Studio, button: gr.UploadButton, tabs: gr.Tabs, model: gr.Dropdown,
                   built: Mapping[str, Tab], comparison: CompareTab) -> None:
    """Make `button` show the tab that a file came from, its widgets filled."""

    def restore(upload: Any) -> dict[gr.Component, Any]:
        with shown_errors():
            path = path_of_upload(upload, "file")
            if path.suffix.lower() in (".json", ".zip"):
                manifest = path.suffix.lower() == ".json"
                spec = (spec_from_manifest(read_bytes(path, "manifest")) if manifest
                        else Bundle(path).spec)
                gr.Info("The whole comparison is in the spec, and that is what Compare draws.")
                return comparison.shown(spec) | {tabs: gr.Tabs(selected="compare")}
            record = record_from_png(path)
            name = tab_of_request(record.request)
            made_with = record.facts.get("model")
            if made_with not in studio.models:
                gr.Warning(f"It was made with the model {made_with}, which is not offered here.")
                made_with = studio.info.name
            studio.with_model(made_with)
            values = shown(built[name], record.request)
            updates = {}
            for widget, field, tab in depending(built):
                properties = FIELDS[field](studio.info, tab)
                if widget in values:
                    properties |= {"value": values.pop(widget)}
                updates[widget] = gr.update(**properties)
            return values | updates | {tabs: gr.Tabs(selected=name), model: made_with}

    widgets: set[Any] = {widget for tab in built.values() for widget in tab.inputs.values()}
    widgets |= {model, comparison.pictures, comparison.written, comparison.accordion}
    button.upload(restore, inputs=button, outputs=[tabs, *widgets], preprocess=False,
                  show_progress="hidden", api_visibility="private", **LANE)


def tab_of_request(request: GenerateRequest) -> str:
    """The name of the tab that makes such requests. Raises RequestError where none does."""
    if request.structures:
        return "structure"
    if request.inpaint is not None:
        return "inpaint"
    if not request.references and not request.prompt:
        raise RequestError("PNG was made from nothing, and the page has no tab for that")
    return "image_text" if request.prompt or len(request.references) > 1 else "variation"


def shown(tab: Tab, request: GenerateRequest) -> dict[Any, Any]:
    """Widgets and their values. Warns of whatever the page has no widget for."""
    values = values_from_request(tab, request)
    rebuilt = tab.translate(**{name: v for name, v in values.items() if name != "random_seed"})
    names = [field.name for field in fields(GenerateRequest)]
    if lost := [name for name in names if getattr(rebuilt, name) != getattr(request, name)]:
        gr.Warning(f"The page has no widget for all of this result's {', '.join(lost)}.")
    widgets = ((tab.inputs[name], value) for name, value in values.items())
    return {widget: _displayed(widget, value) for widget, value in widgets}


def values_from_request(tab: Tab, request: GenerateRequest) -> dict[str, Any]:
    """Widget values, pictures as pictures; `random_seed` off, so that Generate repeats it."""
    values = {name: getattr(request, name) for name in tab.inputs if hasattr(request, name)}
    return values | tab.widgets_from_request(request) | {"random_seed": False}


def _displayed(widget: gr.Component, value: Any) -> Any:
    if isinstance(value, Painting):
        return editor_value_from_image(value.image)
    if value is None and isinstance(widget, (gr.Number, gr.Dropdown, gr.Slider)):
        return widget.value  # what a request leaves open is the model's own, as the page begins
    return value

"""From a result's PNG back to the widgets that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import gradio as gr

from ipadapter_demo.errors import RequestError
from ipadapter_demo.record import request_from_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.ui.running import AT_ONCE, Tab, shown_errors
from ipadapter_demo.ui.uploads import Painting, editor_value_from_image, path_of_upload


def restore_button(button: gr.UploadButton, tabs: gr.Tabs, built: Mapping[str, Tab]) -> None:
    """Make `button` show the tab that a PNG came from, its widgets filled."""

    def restore(upload: Any) -> dict[gr.Component, Any]:
        with shown_errors():
            request = request_from_png(path_of_upload(upload, "PNG"))
            name = tab_of_request(request)
            if name not in built:
                raise RequestError(f"PNG needs the tab {name}, which this model does not have")
            return shown(built[name], request) | {tabs: gr.Tabs(selected=name)}

    widgets = [widget for tab in built.values() for widget in tab.inputs.values()]
    button.upload(restore, inputs=button, outputs=[tabs, *widgets], preprocess=False, **AT_ONCE)


def tab_of_request(request: GenerateRequest) -> str:
    """The name of the tab that makes such requests. Raises RequestError where none does."""
    if request.inpaint is not None:
        return "inpaint"
    if request.structures:
        return "structure"
    if not request.references:
        raise RequestError("PNG was made without any picture, and the page has no tab for that")
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
    if value is None and isinstance(widget, (gr.Number, gr.Dropdown)):
        return widget.value  # what a request leaves open is the model's own, as the page begins
    return value

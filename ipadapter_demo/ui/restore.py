"""From a result's PNG, or a comparison's manifest, back to the widgets that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import gradio as gr

from ipadapter_demo.compare import Bundle, spec_from_manifest
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_bytes
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.compare import CompareTab
from ipadapter_demo.ui.model_input import ModelInput
from ipadapter_demo.ui.models import FIELDS, depending, info_of
from ipadapter_demo.ui.running import QUEUE, Tab, shown_errors
from ipadapter_demo.ui.say import inform, warn
from ipadapter_demo.ui.uploads import Painting, editor_value_from_image, path_of_upload


def restore_button(
    manager: ModelManager,
    button: gr.UploadButton,
    tabs: gr.Tabs,
    model: ModelInput,
    title: gr.HTML,
    header: Callable[[ModelInfo], str],
    built: Mapping[str, Tab],
    comparison: CompareTab,
) -> None:
    """Make `button` show the tab that a file came from, its widgets filled."""

    def restore(
        upload: Any,
        chosen: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it there
    ) -> dict[gr.Component, Any]:
        with shown_errors():
            path = path_of_upload(upload, "file")
            if path.suffix.lower() in (".json", ".zip"):
                manifest = path.suffix.lower() == ".json"
                spec = (
                    spec_from_manifest(read_bytes(path, "manifest"))
                    if manifest
                    else Bundle(path).spec
                )
                inform("The whole comparison is in the spec, and that is what Compare draws.")
                return comparison.shown(spec) | {tabs: gr.Tabs(selected="compare")}
            record = record_from_png(path)
            name = tab_of_request(record.request)
            made_with = record.provenance.get("model")
            if not isinstance(made_with, str) or made_with not in manager.models:
                warn(f"It was made with the model {made_with}, which is not offered here.")
                made_with = chosen
            info = info_of(manager, made_with, lambda text, share: progress(share, desc=text))
            values = shown(built[name], record.request)
            left_open = {
                built[name].inputs[field]
                for field, value in values_from_request(built[name], record.request).items()
                if value is None
            }
            updates = {}
            for widget, field, tab in depending(built):
                properties, value = FIELDS[field](info, tab), values.pop(widget, None)
                if value is not None and widget not in left_open:
                    properties |= {"value": value}
                updates[widget] = gr.update(**properties)
            return (
                values
                | updates
                | {
                    tabs: gr.Tabs(selected=name),
                    title: header(info),
                    model.chosen: made_with,
                    model.shown: made_with,
                }
            )

    widgets: set[Any] = {widget for tab in built.values() for widget in tab.inputs.values()}
    widgets |= {model.chosen, model.shown, title}
    widgets |= {comparison.pictures, comparison.written, comparison.accordion}
    button.upload(
        restore,
        inputs=[button, model.chosen],
        outputs=[tabs, *widgets],
        preprocess=False,
        show_progress_on=title,
        api_visibility="private",
        **QUEUE,
    )


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
        warn(f"The page has no widget for all of this result's {', '.join(lost)}.")
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

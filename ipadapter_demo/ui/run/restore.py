"""From a result's PNG, or a comparison's manifest, back to the widgets that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr

from ipadapter_demo.compare import Bundle, Spec, spec_from_manifest
from ipadapter_demo.embeds import ImageEmbeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.foreign import settings_from_png
from ipadapter_demo.imaging import read_bytes
from ipadapter_demo.lora import Lora, texts_from_loras
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.record import Record
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.room import record_at
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.embeds import embeds_file
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.model_input import ModelInput, model_properties
from ipadapter_demo.ui.run.models import info_of, recommended
from ipadapter_demo.ui.run.running import AT_ONCE, QUEUE
from ipadapter_demo.ui.run.say import escaped, inform, warn
from ipadapter_demo.ui.run.tab import BuiltTab, Results, Tab, Update
from ipadapter_demo.ui.run.taken_over import taken_over
from ipadapter_demo.ui.run.updates import AS_USUAL
from ipadapter_demo.ui.run.uploads import Painting, editor_value_from_image, path_of_upload
from ipadapter_demo.ui.widgets.larger import values_from_upscale

RESTORED = "Its settings are in the fields: Generate draws it again."
WORDS = "image_text"  # the tab for the pictures of other programs, which have a prompt

# The picture, and on a wide screen its settings beside it: the history is at the foot of the page.
IN_SIGHT = """() => {
    const shown = [...document.querySelectorAll(".results")].find((one) => one.offsetParent);
    shown?.scrollIntoView({ block: "center" });
    return [];
}"""


def restore_button(
    manager: ModelManager,
    button: gr.UploadButton,
    model: ModelInput,
    title: gr.HTML,
    header: Callable[[ModelInfo], str],
    tabs: gr.Tabs,
    built: Mapping[str, BuiltTab],
    show_spec: Callable[[Spec], Update],
    spec_widgets: Sequence[gr.Component],
) -> None:
    """Make `button` show the tab that a file came from, its widgets filled. `show_spec` fills
    `spec_widgets`, those of the Compare tab."""

    def comparison(path: Path) -> Update:
        is_manifest = path.suffix.lower() == ".json"
        spec = (
            spec_from_manifest(read_bytes(path, "manifest")) if is_manifest else Bundle(path).spec
        )
        inform("The whole comparison is in the spec, and that is what Compare draws.")
        return show_spec(spec) | {tabs: gr.Tabs(selected="compare")}

    def result(path: Path, chosen: str, progress: gr.Progress) -> Iterator[Update]:
        if (found := settings_from_png(path)) is not None:
            inform(f"Of {found.program}: what is not taken over is listed beside the settings.")
            info = manager.info_beside(chosen)
            yield taken_over(found, info, built[WORDS]) | {tabs: gr.Tabs(selected=WORDS)}
            return
        record = record_at(path)
        name = tab_of_request(record.request, {name: one.tab for name, one in built.items()})
        made_with = record.provenance.get("model")
        if not isinstance(made_with, str) or made_with not in manager.models:
            warn(f"It was made with the model {made_with}, which is not offered here.")
            made_with = chosen
        info = yield from info_of(
            manager, made_with, lambda text, share: progress(share, desc=text)
        )
        values = shown(built[name], record.request)
        given = values_from_request(built[name], record.request)
        inputs = built[name].inputs
        left_open = {inputs[field] for field in given if given[field] is None and field in inputs}
        updates = {}
        same = made_with == chosen  # then other tabs, and Live, stay as they are
        usual = recommended([built[name]] if same else built.values(), info)
        if same and "live" in inputs:
            del usual[inputs["live"]]
        for widget, properties in usual.items():
            value = values.pop(widget, None)
            if value is not None and widget not in left_open:
                properties |= {"value": value}
            updates[widget] = gr.update(**properties)
        yield (
            values
            | updates
            | _alone(built[name].results, str(path), restored(record, made_with))
            | {
                tabs: gr.Tabs(selected=name),
                title: header(info),
                model.chosen: gr.update(value=made_with, **model_properties(manager)),
                model.shown: made_with,
            }
        )

    def restore(
        upload: object,
        chosen: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio looks for it there
    ) -> Iterator[Update]:
        with shown_errors():
            path = path_of_upload(upload, "file")
            if path.suffix.lower() in (".json", ".zip"):
                yield comparison(path)
            else:
                yield from result(path, chosen, progress)

    widgets: set[gr.Component] = {
        widget for tab in built.values() for widget in tab.inputs.values()
    }
    for results in (tab.results for tab in built.values()):
        widgets |= {results.gallery, results.status, *results.without()}
    widgets |= {model.chosen, model.shown, title, *spec_widgets}
    button.upload(
        restore,
        inputs=[button, model.chosen],
        outputs=[tabs, *widgets],
        preprocess=False,
        show_progress_on=title,
        api_visibility="private",
        **QUEUE,
    ).success(None, js=IN_SIGHT, **AT_ONCE)


def _alone(results: Results, picture: str, said: str) -> Update:
    """The picture whose settings are shown, as the tab's only result; what is said of it."""
    gallery = gr.Gallery([picture], **AS_USUAL)
    return results.without() | {results.gallery: gallery, results.status: said}


def restored(record: Record, model: str) -> str:
    """What the status says of it, where this model is the one that is chosen."""
    scale = record.request.image_scale
    return f"Seed {record.seed}, λ = {scale:g}. {restored_with(record, model)}"


def restored_with(record: Record, model: object) -> str:
    if (made_with := record.provenance.get("model")) == model:
        return RESTORED
    of, now = escaped(made_with), escaped(model)
    return f"Its settings are in the fields. It was drawn by {of}, and Generate draws with {now}."


def tab_of_request(request: GenerateRequest, tabs: Mapping[str, Tab]) -> str:
    """The name of the tab that makes such requests. Raises RequestError where none does."""
    for name, tab in tabs.items():
        if tab.makes(request):
            return name
    raise RequestError("PNG was made from nothing, and the page has no tab for that")


def shown(built: BuiltTab, request: GenerateRequest) -> Update:
    """Widgets and their values. Warns of whatever the page has no widget for."""
    values = values_from_request(built, request)
    rebuilt = built.tab.translate(**{n: v for n, v in values.items() if n != "random_seed"})
    names = [field.name for field in fields(GenerateRequest)]
    if lost := [name for name in names if getattr(rebuilt, name) != getattr(request, name)]:
        warn(f"The page has no widget for all of this result's {', '.join(lost)}.")
    values["guidance_start"], values["guidance_end"] = values.pop("guidance_window")
    if "upscale" in values:
        values |= values_from_upscale(values.pop("upscale"))
    widgets = ((built.inputs[name], value) for name, value in values.items())
    return {widget: _displayed(widget, value) for widget, value in widgets}


def values_from_request(built: BuiltTab, request: GenerateRequest) -> dict[str, Any]:
    """Widget values, pictures as pictures and the window of guidance whole; `random_seed` off, so
    that Generate repeats it."""
    values = {name: getattr(request, name) for name in built.inputs if hasattr(request, name)}
    values |= {"guidance_window": request.guidance_window, "random_seed": False}
    if "upscale_factor" in built.inputs:
        values["upscale"] = request.upscale
    return values | built.tab.widgets_from_request(request)


def _displayed(widget: gr.Component, value: object) -> object:
    if isinstance(value, ImageEmbeds):
        return embeds_file(value)
    if isinstance(value, Painting):
        return editor_value_from_image(value.image)
    if isinstance(value, tuple) and all(isinstance(one, Lora) for one in value):
        return texts_from_loras(value)
    if value is None and isinstance(widget, (gr.Number, gr.Dropdown, gr.Slider)):
        return widget.value  # what a request leaves open is the model's own, as the page begins
    return value

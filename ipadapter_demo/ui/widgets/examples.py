"""Rows to click on, from assets/examples; clicking fills the widgets and draws."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import gradio as gr

from ipadapter_demo.assets import asset
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.uploads import editor_value_from_image

FOLDER = asset("assets/examples")

# As soon as the widgets hold the example's values. What is drawn at that moment gives way.
DRAW = """() => {
    const [generate, stop] = ["generate", "halt"].map(
        (name) => document.querySelector("#run-TAB ." + name));
    const draw = () => generate.disabled ? setTimeout(draw, 100) : generate.click();
    if (!stop.disabled) stop.click();
    requestAnimationFrame(() => requestAnimationFrame(draw));
    return [];
}"""


def examples(
    tab: str, inputs: Sequence[gr.Component], rows: Sequence[Sequence[str | None]]
) -> gr.Examples | None:
    """Pictures are named by their file. Rows whose files are missing, or whose choices this model
    does not offer, are left out."""
    usable = [row for row in rows if all(map(_offered, inputs, row))]
    if usable:
        found = gr.Examples(
            [[_value(*cell) for cell in zip(inputs, row, strict=True)] for row in usable],
            inputs=list(inputs),
            label="Examples",
            api_visibility="private",
        )
        found.load_input_event.success(
            None, js=DRAW.replace("TAB", tab), queue=False, api_visibility="private"
        )
        # gradio would also set choices and hints, to those of the model that the page began with
        found.input_component_props = [{} for _ in inputs]
        for component in inputs:  # else they are deleted like visitors' files, after a day
            component.keep_in_cache.update(component.temp_files)
        return found
    return None


def only_offered(
    found: gr.Examples, model: ModelInput, choices_of: Callable[[str], Collection[str]]
) -> None:
    """With another model, show those rows whose last value is among the choices of its name."""

    def offered(name: str) -> gr.Dataset:
        choices = choices_of(name)
        rows = [row for row in found.visible_examples if row[-1] in choices]
        return gr.Dataset(samples=rows, visible=bool(rows))

    model.shown.change(offered, inputs=model.shown, outputs=found.dataset, **AT_ONCE)


def _offered(component: gr.Component, cell: str | None) -> bool:
    if cell is None:
        return True
    if isinstance(component, gr.Dropdown):
        return cell in [value for _, value in component.choices]
    return not _is_picture(component) or (FOLDER / cell).is_file()


def _value(component: gr.Component, cell: str | None) -> object:
    if cell is None or not _is_picture(component):
        return cell
    path = str(FOLDER / cell)
    return editor_value_from_image(path) if isinstance(component, gr.ImageEditor) else path


def _is_picture(component: gr.Component) -> bool:
    return isinstance(component, (gr.Image, gr.ImageEditor))

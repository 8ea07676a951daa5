"""The faces that are found in a tab's references, shown with their numbers."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.faces import Analyse, find_faces, numbered_faces
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import BuiltTab, Widgets
from ipadapter_demo.ui.run.uploads import value_from_widget
from ipadapter_demo.ui.widgets.reference_slots import REFERENCES
from ipadapter_demo.ui.widgets.slots import slot


def add_faces(manager: ModelManager, model: ModelInput, built: BuiltTab) -> None:
    """An accordion at the end of a tab with reference slots, for models that read faces."""
    names = [slot("reference", k) for k in REFERENCES]
    inputs: Widgets = {name: built.inputs[name] for name in names}
    with gr.Accordion("Faces", open=False, visible=bool(manager.info.face_adapters)) as accordion:
        gr.HTML(
            "A FaceID adapter reads the largest face of each reference, or the one whose number is "
            "chosen as its Face, under More references. Faces are found by InsightFace, which "
            "whoever runs this page installs; its weights are for non-commercial research only.",
            elem_classes="status",
        )
        button = gr.Button("Find faces")
        shown = gr.Gallery(label="Faces", format="png", columns=2, interactive=False, height=300)

    def offered(name: str) -> object:
        info = manager.info_of(name)
        return gr.skip() if info is None else gr.Accordion(visible=bool(info.face_adapters))

    def found(**values: Any) -> list[Image.Image]:
        with shown_errors():
            return shown_faces(inputs, values)

    model.shown.change(offered, model.shown, accordion, **AT_ONCE)
    endpoint(
        button.click,
        found,
        inputs,
        shown,
        concurrency_limit=1,  # it runs networks of its own
        api_visibility="private",
    )


def shown_faces(
    inputs: Widgets, values: dict[str, Any], analyse: Analyse = find_faces
) -> list[Image.Image]:
    """Each picture of the values, its faces with their numbers. Raises RequestError."""
    read = [value_from_widget(inputs[name], value, name) for name, value in values.items()]
    if not any(read):
        raise RequestError("reference is missing: upload a picture first")
    return [numbered_faces(picture, analyse(picture)) for picture in read if picture]

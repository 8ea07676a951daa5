"""A mask to upload: what in it means here, and where that is on the picture."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.masks import MaskMeans, shown_on
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.run.uploads import (
    Painting,
    image_from_upload,
    mask_from_upload,
    painting_from_editor,
)
from ipadapter_demo.ui.widgets import components

# Paint is sent anew only while a preview shows what becomes of it: after a stroke, a button of the
# editor, or a key, which presses one. Not by the editor's `change`: while anything hears that, it
# sends each stroke by a way of gradio's that is closed here.
PAINTED = """() => {
    let planned = null;
    const again = (tab) => {
        clearTimeout(planned);
        planned = setTimeout(() => {
            if (tab.querySelector(".mask-view img")) tab.querySelector(".masked").click();
        }, 100);
    };
    const heard = ({ target, type }) => {
        const tab = target.closest?.(".mask-editor")?.closest(".tab");
        if (tab && type === "click") again(tab);
        else if (tab) document.addEventListener("pointerup", () => again(tab), { once: true });
    };
    for (const kind of ["click", "pointerdown"]) document.addEventListener(kind, heard, true);
}"""

CHOICES = [("White = selected", "white"), ("Transparent = selected", "transparent")]


def mask_input(
    name: str,
    means_name: str,
    label: str,
    hint: str,
    picture: gr.Component | None = None,
    edits: Widgets | None = None,
    **layout: Any,
) -> Widgets:
    """Two widgets of these names; below them the mask as it is understood, on `picture` or on plain
    grey, with what is painted there and the `edits` of all of it."""
    with gr.Column(scale=layout.pop("scale", 1), min_width=layout.pop("min_width", 170)):
        mask = components.picture(label, hint, image_mode="L", sources=["upload"], **layout)
        means = gr.Dropdown(
            CHOICES,
            value="white",
            label=f"{label}: selected part",
            show_label=False,
            container=False,
        )
        view = gr.Image(
            label=f"{label} (preview)",
            format="png",
            interactive=False,
            buttons=[],
            height=130,
            elem_classes=["mask-view", "filled"],
        )

    def mask_view(
        mask: object, means: MaskMeans, picture: object = None, **edited: Any
    ) -> Image.Image | None:
        with shown_errors(), suppress(RequestError):  # Generate says it
            given = mask_from_upload(mask, label, means)
            ground = _ground(picture)
            if given is None and not any(edited.values()):
                return None
            if isinstance(ground, Painting):
                invert, grow = edited.get("mask_invert"), edited.get("mask_grow") or 0
                given = ground.mask_with(given, invert=bool(invert), grow=grow)
                ground = ground.image
            return None if given is None else shown_on(ground, given)
        return None

    inputs: Widgets = {"mask": mask, "means": means} | (edits or {})
    triggers = [one.change for one in inputs.values()]  # type: ignore[attr-defined]
    if picture is not None:
        inputs["picture"] = picture
        triggers.append(picture.upload)  # type: ignore[attr-defined]
        if edits:  # it is an editor
            again = gr.Button("Preview the mask", visible="hidden", elem_classes="masked")
            triggers.append(again.click)
    endpoint(
        partial(gr.on, triggers),
        mask_view,
        inputs,
        view,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
        concurrency_limit=4,
    )  # it does not run the model
    return {name: mask, means_name: means}


def _ground(upload: object) -> Image.Image | Painting | None:
    """The picture of an upload, or that of an editor with its paint."""
    if isinstance(upload, dict) and "layers" in upload:
        return painting_from_editor(upload, "picture")
    return image_from_upload(upload, "picture")

"""The image embeds of a tab's references, saved to be used in place of the pictures."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ipadapter_demo.embeds import ENDING, ImageEmbeds, average_embeds, save_embeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.request import Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.api import file_of, public
from ipadapter_demo.ui.run.api_fields import answer, parameters, picture_schema
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors, with_errors_said
from ipadapter_demo.ui.run.running import QUEUE
from ipadapter_demo.ui.run.status import status_line
from ipadapter_demo.ui.run.tab import BuiltTab, Update, Widgets
from ipadapter_demo.ui.run.updates import loading, waited
from ipadapter_demo.ui.run.uploads import value_from_widget
from ipadapter_demo.ui.run.visitor import this_visitor
from ipadapter_demo.ui.widgets.reference_slots import REFERENCE, REFERENCES, references_from_slots
from ipadapter_demo.ui.widgets.slots import slot

SAVED = "The image embeds are saved below."


def add_embeds(manager: ModelManager, built: BuiltTab) -> None:
    """An accordion at the end of a tab with reference slots, and `/image_embeds` for programs."""
    names = [slot(name, k) for name in REFERENCE for k in REFERENCES] + ["adapter", "model"]
    inputs: Widgets = {name: built.inputs[name] for name in names if name in built.inputs}
    with gr.Accordion("Image embeds", open=False):
        gr.HTML(
            "What the image encoder makes of the pictures above, of several their mean: a small "
            "file that can be given in place of a picture, under More references.",
            elem_classes="status",
        )
        button = gr.Button("Save image embeds")
        status = status_line()
        saved = gr.File(label="Image embeds", interactive=False, visible=False)

    def said(text: str) -> Update:
        return {status: text}

    def page(**values: object) -> Iterator[Update]:
        def updates() -> Iterator[Update]:
            with closing(_embeds(manager, inputs, values)) as work:
                for found in work:
                    if isinstance(found, str):
                        yield said(found)
                    else:
                        yield {saved: gr.File(embeds_file(found), visible=True)} | said(SAVED)

        yield from with_errors_said(updates(), said)

    endpoint(
        button.click,
        page,
        inputs,
        [saved, status],
        show_progress="hidden",
        api_visibility="private",
        **QUEUE,
    )

    def image_embeds(**values: Any) -> Iterator[dict[str, Any] | None]:
        """Image embeds of the references, of several their mean: a file to send in place of a
        picture."""
        with shown_errors(), closing(_embeds(manager, inputs, values)) as work:
            for found in work:  # who has left is missed at each
                yield None if isinstance(found, str) else file_of(embeds_file(found))

    public(image_embeds, parameters(inputs), [answer(picture_schema(), "embeds")], **QUEUE)


def _embeds(
    manager: ModelManager, inputs: Widgets, values: dict[str, Any]
) -> Generator[str | ImageEmbeds, None, None]:
    """Texts while they are waited for, then the embeds. Raises RequestError."""
    read = {name: value_from_widget(inputs[name], value, name) for name, value in values.items()}
    model, adapter = read.pop("model"), read.pop("adapter")
    references = references_from_slots(read)
    if not references:
        raise RequestError("reference is missing: upload a picture first")
    cost = sum(reference.squares for reference in references)
    with manager.turn(model, this_visitor(), cost) as turn:
        yield from waited(turn)
        if not manager.is_loaded(model):
            yield loading(model)
        pipeline = manager.at_turn(turn)

        def embeds_of(number: int, reference: Reference) -> ImageEmbeds:
            if reference.embeds is not None and reference.image is None:
                return reference.embeds
            return pipeline.embeds_of(reference, adapter).named(slot("reference", number))

        found = [embeds_of(number, reference) for number, reference in enumerate(references, 1)]
        yield found[0] if len(found) == 1 else average_embeds(found)


def embeds_file(embeds: ImageEmbeds) -> str:
    """The path of a file in gradio's folder."""
    path = Path(get_upload_folder()) / secrets.token_hex(16) / f"embeds{ENDING}"
    path.parent.mkdir(parents=True)
    save_embeds(path, embeds)
    return str(path)

"""The endpoints for programs: the values of a tab in, files and plain values out."""

from __future__ import annotations

import inspect
import mimetypes
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ipadapter_demo.imaging import tinted
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager, Turn
from ipadapter_demo.ui.run.api_fields import answer, parameters, picture_schema
from ipadapter_demo.ui.run.endpoint import endpoint
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.running import QUEUE, drawn
from ipadapter_demo.ui.run.tab import BuiltTab, Widgets
from ipadapter_demo.ui.run.updates import LOOK_AGAIN, made, saved

File = dict[str, Any]  # gradio's FileData; clients get its content, or its URL


class Answer(NamedTuple):
    """The values that an endpoint returns, in this order."""

    pictures: list[File]
    seeds: list[int]
    status: str
    attention_maps: list[File]


def at_work(status: str) -> Answer:
    """Until there are pictures."""
    return Answer([], [], status, [])


def add_api(manager: ModelManager, built: BuiltTab) -> None:
    """`/<name of translate>` draws what Generate on this tab draws."""

    @wraps(built.tab.translate)  # the endpoint has its name and documentation
    def run(**values: Any) -> Iterator[Answer]:
        seed = values["seed"]
        asked = values | {"random_seed": seed is None, "seed": seed or 0}
        with shown_errors():
            yield from drawn(manager, built, asked, answers, at_work)

    pictures = {"type": "array", "items": picture_schema()}
    public(
        run,
        parameters(built.inputs),
        [
            answer(pictures, "pictures"),
            answer({"type": "array", "items": {"type": "integer"}}, "seeds"),
            answer({"type": "string"}, "status"),
            answer(pictures, "attention_maps"),
        ],
        **QUEUE,
    )


def public(
    handler: Callable[..., object], inputs: Widgets, outputs: list[gr.Component], **queue: object
) -> None:
    """An endpoint of the handler's name that nothing on the page triggers. gradio hands tools the
    descriptions that it finds in the handler's documentation."""
    described = [f"{name}: {one.api_info()['description']}" for name, one in inputs.items()]
    handler.__doc__ = "\n".join([inspect.getdoc(handler) or "", "Args:", *described])
    endpoint(
        partial(gr.on, []),
        handler,
        inputs,
        outputs,
        api_name=handler.__name__,
        show_progress="hidden",
        **queue,
    )


def answers(
    built: BuiltTab,
    pipeline: ImagePromptPipeline,
    request: GenerateRequest,
    record_attention: bool,
    turn: Turn,
    preview: bool,
    most_seconds: float | None = None,
) -> Iterator[Answer]:
    """How far a request is, then its pictures. `turn` learns it too."""
    drawing = pipeline.stream(request, 0, record_attention, LOOK_AGAIN, most_seconds)
    with closing(drawing) as events:
        for event in events:
            if isinstance(event, Preview):
                turn.share, turn.seconds = event.step / event.steps, event.seconds
                yield at_work(f"Step {event.step} of {event.steps}.")
            else:
                yield _answer(event)


def _answer(result: Result) -> Answer:
    paths = saved(result)
    maps = [
        _saved_picture(tinted(image, amount), Path(paths[0]).parent)
        for image, amounts in zip(result.images, result.attention_maps, strict=False)
        for amount in amounts
    ]
    status = " ".join([made(result), *result.warnings])
    return Answer([file_of(path) for path in paths], list(result.seeds), status, maps)


def file_of(path: Path | str) -> File:
    """A file in gradio's folder as an answer."""
    kind, _ = mimetypes.guess_type(path)
    return gr.FileData(path=str(path), orig_name=Path(path).name, mime_type=kind).model_dump()


def png_file(image: Image.Image) -> File:
    """A picture as an answer."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return _saved_picture(image, folder)


def _saved_picture(image: Image.Image, folder: Path) -> File:
    path = folder / f"{secrets.token_hex(8)}.png"
    image.save(path)
    return file_of(path)

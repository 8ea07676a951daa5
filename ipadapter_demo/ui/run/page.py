"""The page itself: whatever goes wrong in one of its events, gradio's own part included, ends in a
sentence."""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.exceptions import InvalidPathError
from pydantic import ValidationError

import ipadapter_demo
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.say import failure
from ipadapter_demo.ui.run.sessions import keep_little

PACKAGE = str(Path(ipadapter_demo.__file__).parent)
Layout = dict[str, Any]
UNLIKE = "a value is of a type that its field does not take"


class Page(gr.Blocks):
    def launch(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as gradio's
        served = super().launch(*args, **options)
        keep_little(self)
        return served

    def get_config_file(self) -> Any:  # noqa: ANN401 - as gradio's
        """A browser gets no components that stand for the values of endpoints alone: more than a
        third of all, which its script searches again and again. Programs ask for them all."""
        config = super().get_config_file()
        unseen = {one["id"] for one in config["components"] if one["type"] == "api"}
        for page in config["page"].values():
            page["components"] = [one for one in page["components"] if one not in unseen]
            page["layout"] = _without(page["layout"], unseen)
        return config

    async def process_api(self, *args: Any, **options: Any) -> dict[str, Any]:
        with shown_errors():
            return await super().process_api(*args, **options)

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], *more: Any, **options: Any
    ) -> list[Any]:
        """Values as a handler gets them. Those that no widget sends are refused."""
        try:
            return await super().preprocess_data(block_fn, inputs, *more, **options)
        except gr.Error as error:  # in words of gradio, with the whole of a value
            raise failure(error.message) from error
        except OSError:
            raise
        except Exception as error:
            raise failure(_refused(error, block_fn.inputs, inputs)) from error

    async def call_function(self, *args: Any, **options: Any) -> dict[str, Any]:
        """gradio's own handlers, and what it reads of an event before it calls one of ours."""
        try:
            return await super().call_function(*args, **options)
        except (TypeError, LookupError, ValueError, AttributeError) as error:
            if _is_of(error, PACKAGE):
                raise
            raise failure(UNLIKE) from error

    async def postprocess_data(
        self,
        block_fn: BlockFunction,
        predictions: Any,  # noqa: ANN401
        *more: Any,
        **options: Any,
    ) -> list[Any]:
        """No widget at all is an update too."""
        nothing = isinstance(predictions, dict) and not predictions
        given = gr.skip() if nothing and block_fn.outputs else predictions
        return await super().postprocess_data(block_fn, given, *more, **options)


def _without(node: Layout, unseen: Collection[int]) -> Layout:
    """A part of gradio's tree of components, without some."""
    children = [
        _without(one, unseen) for one in node.get("children", ()) if one["id"] not in unseen
    ]
    return {**node, "children": children} if "children" in node else node


def _refused(error: Exception, widgets: Sequence[Any], values: Sequence[Any]) -> str:
    if isinstance(error, InvalidPathError):
        return "a picture or file must be uploaded to this page first"
    found = re.search(r"component at index (\d+)", str(error))
    index = int(found[1]) if found else _first_unlike(widgets, values)
    if index is None:
        return UNLIKE
    name = widgets[index].label or widgets[index].get_block_name()
    return f"{name}: a value of another type is expected, got {values[index]!r:.80}"


def _is_of(error: Exception, package: str) -> bool:
    """True where a function of the package, this file aside, was at work."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(f.filename.startswith(package) and f.filename != __file__ for f in frames)


def _first_unlike(widgets: Sequence[Any], values: Sequence[Any]) -> int | None:
    """The index of the first value that does not fit its widget's model of data."""
    for index, (widget, value) in enumerate(zip(widgets, values, strict=False)):
        if value is not None and (model := getattr(widget, "data_model", None)):
            try:
                model.model_validate(value, context={"validate_meta": True})
            except (ValidationError, TypeError, ValueError, AttributeError, LookupError):
                return index
    return None

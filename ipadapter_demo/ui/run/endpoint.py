"""From widgets to a handler that takes their values by name, over HTTP as well."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import gradio as gr
from gradio.events import Dependency

from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.run.visitor import while_listened


def endpoint(
    listen: Callable[..., Dependency],
    handler: Callable[..., object],
    inputs: Widgets,
    outputs: gr.Component | Sequence[gr.Component],
    **options: object,
) -> Dependency:
    """Run `handler(**values)`, with the raw value of every input by its name, on an event: `listen`
    is a method of it, such as `button.click` or `event.then`, or `partial(gr.on, events)`.

    An endpoint has these names too, the handler's documentation, and its defaults; what has no
    value need not be given. Values are raw because only `uploads` may open what a visitor sends.
    Returns the event, to go on from.
    """
    if inspect.isgeneratorfunction(handler):
        handler = while_listened(handler)
    known = inspect.signature(handler).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY

    def parameter(name: str) -> inspect.Parameter:
        if name in known:
            return known[name].replace(kind=keyword)
        default = None if inputs[name].value is None else inspect.Parameter.empty
        return inspect.Parameter(name, keyword, default=default)

    # gradio asks a handler which values it wants
    handler.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter(name) for name in inputs]
    )
    return listen(handler, inputs_kwargs=inputs, outputs=outputs, preprocess=False, **options)

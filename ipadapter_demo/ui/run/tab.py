"""A tab of the page: how its values become a request and a request its values, and its widgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import gradio as gr
from gradio.events import Dependency

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput

Widgets = dict[str, gr.Component]
Update = dict[gr.Component, object]  # new values or properties; other widgets stay as they are
Properties = dict[str, object]  # of a widget
Recommended = dict[str, Callable[[ModelInfo], Properties]]  # by the name of a widget


@dataclass(frozen=True, slots=True)
class Results:
    """The right column: the pictures, and how far they are. `attention_maps` show where every
    reference acted, for those who ask; `lines` make a result again elsewhere, as a command and in
    Python."""

    gallery: gr.Gallery
    scrubber: gr.HTML  # over the gallery after a sweep of λ
    status: gr.HTML
    attention_maps: gr.HTML
    lines: tuple[gr.Code, gr.Code]
    comparison: gr.ImageSlider | None
    send: dict[str, gr.Button]  # by where the picture goes: see `run.send`
    surprise: gr.Button  # see `run.offers`, as the next one
    switch: gr.Button
    number: gr.State  # of the result that was clicked last

    def without(self) -> Update:
        """All but gallery and status as it is before there is a result."""
        texts = (self.scrubber, self.attention_maps, *self.lines)
        empty: Update = dict.fromkeys(texts, "") | {self.number: None}
        return empty if self.comparison is None else empty | {self.comparison: None}


@dataclass(frozen=True, slots=True)
class Buttons:
    generate: gr.Button
    stop: gr.Button
    strip: gr.Button | None = None  # the same request at several λ
    frame: gr.Button | None = None  # hidden: what Live clicks to see the request in few steps
    queue: gr.Button | None = None  # in the place of `strip` while something is drawn
    next: gr.Button | None = None  # hidden: what begins a run that waited
    also: gr.Button | None = None  # begins a run of another kind

    @property
    def all(self) -> list[gr.Button]:
        """Those that change with a run."""
        found = (self.generate, self.stop, self.strip, self.queue, self.also)
        return [button for button in found if button is not None]

    def busy(self) -> Update:
        return self._while(True)

    def idle(self) -> Update:
        return self._while(False)

    def _while(self, drawing: bool) -> Update:
        update: Update = {
            self.generate: gr.Button(interactive=not drawing),
            self.stop: gr.Button(interactive=drawing),
        }
        if self.also is not None:
            update[self.also] = gr.Button(interactive=not drawing)
        if self.strip is not None:
            update[self.strip] = gr.Button(visible=not drawing)
        if self.queue is not None:
            update[self.queue] = gr.Button(visible=drawing or "hidden")
        return update


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """`translate` makes a request of values, and its name is the endpoint's; `widgets_from_request`
    gives the values of a request, those that bear a request field's name aside; `makes` says
    whether a request is of this tab's kind. `recommended` holds what a widget shows for a model;
    names that the tab has no widget for are left out."""

    label: str
    translate: Callable[..., GenerateRequest]
    widgets_from_request: Callable[[GenerateRequest], dict[str, object]]
    makes: Callable[[GenerateRequest], bool]
    recommended: Recommended
    layout: Callable[[ModelManager, ModelInput], tuple[Widgets, Results, Buttons]]


@dataclass(frozen=True, slots=True)
class BuiltTab:
    """A tab on a page: its widgets by name, those of its results, and its buttons."""

    tab: Tab
    inputs: Widgets
    results: Results
    buttons: Buttons
    runs: list[Dependency] = field(default_factory=list)  # Generate, and the sweep of λ

    @property
    def outputs(self) -> list[gr.Component]:
        """Of a run, in the order in which the endpoint returns them."""
        shown = self.results
        comparison = [] if shown.comparison is None else [shown.comparison]
        return [
            shown.gallery,
            shown.status,
            self.inputs["seed"],
            shown.attention_maps,
            shown.scrubber,
            *comparison,
        ]

    def recommended(self, info: ModelInfo) -> dict[gr.Component, Properties]:
        """Whatever depends on the model, as it is for this one."""
        return {
            self.inputs[name]: properties(info)
            for name, properties in self.tab.recommended.items()
            if name in self.inputs
        }

"""Models, LoRAs and autoencoders that came into the folder of models since the page was built:
looked for when somebody opens the page, or goes to one of the lists."""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr

from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput, model_properties
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import BuiltTab, Update
from ipadapter_demo.ui.widgets.loras import loras_properties
from ipadapter_demo.ui.widgets.vaes import vae_properties


def look_when_asked(
    page: gr.Blocks, manager: ModelManager, model: ModelInput, tabs: Iterable[BuiltTab]
) -> None:
    """What is chosen stays."""
    lists = [
        (tab.inputs[name], properties)
        for tab in tabs
        for name, properties in (("loras", loras_properties), ("vae", vae_properties))
        if name in tab.inputs
    ]
    widgets = [one for one, _ in lists]

    def models() -> object:
        return gr.update(**model_properties(manager))

    def names(chosen: str) -> Update:
        info = manager.info_of(chosen)
        found = {one: {} if info is None else dict(of(info)) for one, of in lists}
        return {
            one: gr.update(**{k: v for k, v in p.items() if k != "value"})
            for one, p in found.items()
        }

    gr.on([page.load, model.chosen.focus], models, outputs=model.chosen, **AT_ONCE)
    gr.on(
        [page.load, *(one.focus for one in widgets)],
        names,
        inputs=model.chosen,
        outputs=widgets,
        preprocess=False,
        **AT_ONCE,
    )

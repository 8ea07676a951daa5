"""Models and LoRAs that came into the folder of models since the page was built: looked for when
somebody opens the page, or goes to one of the lists."""

from __future__ import annotations

from collections.abc import Iterable

import gradio as gr

from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import ModelInput, model_properties
from ipadapter_demo.ui.run.running import AT_ONCE
from ipadapter_demo.ui.run.tab import BuiltTab, Update
from ipadapter_demo.ui.widgets.loras import loras_properties


def look_when_asked(
    page: gr.Blocks, manager: ModelManager, model: ModelInput, tabs: Iterable[BuiltTab]
) -> None:
    """What is chosen stays."""
    loras = [tab.inputs["loras"] for tab in tabs if "loras" in tab.inputs]

    def models() -> object:
        return gr.update(**model_properties(manager))

    def names(chosen: str) -> Update:
        info = manager.info_of(chosen)
        found = {} if info is None else loras_properties(info)
        found.pop("value", None)
        return {one: gr.update(**found) for one in loras}

    gr.on([page.load, model.chosen.focus], models, outputs=model.chosen, **AT_ONCE)
    gr.on(
        [page.load, *(one.focus for one in loras)],
        names,
        inputs=model.chosen,
        outputs=loras,
        preprocess=False,
        **AT_ONCE,
    )

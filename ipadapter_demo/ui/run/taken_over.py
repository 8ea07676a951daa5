"""The settings of another program's picture in the widgets of a tab; in words what is not there."""

from __future__ import annotations

from ipadapter_demo.foreign import ForeignSettings
from ipadapter_demo.lora import texts_from_loras
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.ui.run.say import escaped
from ipadapter_demo.ui.run.tab import BuiltTab, Update


def taken_over(found: ForeignSettings, info: ModelInfo, built: BuiltTab) -> Update:
    """Widgets and their values; its pictures stay, as no such file has any."""
    fields, left = found.fitted(info)
    values = dict(fields)
    if "image_window" in values:
        values["window_start"], values["window_end"] = values.pop("image_window")
    if "loras" in values:
        values["loras"] = texts_from_loras(values["loras"])
    if "seed" in values:
        values["random_seed"] = False
    status = "".join(f"<li>{escaped(sentence)}</li>" for sentence in left)
    names = escaped(", ".join(fields) or "nothing")
    return {built.inputs[name]: value for name, value in values.items()} | {
        built.results.status: f"Of {escaped(found.program)}. Taken over: {names}. Not taken over:"
        f"<ul>{status}</ul>"
    }

"""The LoRAs of a request, as a list of "name" or "name:weight"."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ipadapter_demo.errors import RequestError
from ipadapter_demo.lora import Lora
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.ui.run.tab import Properties


def loras_input(info: ModelInfo) -> gr.Dropdown:
    """Hidden where the model has none."""
    return gr.Dropdown(
        label="LoRAs",
        info="a weight goes behind a colon, as style:0.7; else it is 1",
        multiselect=True,
        allow_custom_value=True,
        **loras_properties(info),
    )


def loras_properties(info: ModelInfo) -> Properties:
    """The choices of a model, those chosen that a request has which names none."""
    usual = [Lora(name=name, weight=weight) for name, weight in info.loras.items() if weight]
    return {
        "choices": list(info.loras),
        "value": texts_from_loras(usual),
        "visible": bool(info.loras),
    }


def loras_from_texts(texts: Sequence[str] | None) -> tuple[Lora, ...]:
    """Raises RequestError for a weight that is no number."""
    found = []
    for text in texts or ():
        name, colon, weight = str(text).partition(":")
        try:
            found.append(Lora(name=name.strip(), weight=float(weight) if colon else 1.0))
        except ValueError:
            raise RequestError(
                f"loras must be names, or names with a weight such as style:0.7, got {text!r:.80}"
            ) from None
    return tuple(found)


def texts_from_loras(loras: Sequence[Lora] | None) -> list[str]:
    return [
        lora.name if lora.weight == 1 else f"{lora.name}:{lora.weight:g}" for lora in loras or ()
    ]

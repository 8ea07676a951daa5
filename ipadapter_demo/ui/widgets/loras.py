"""The LoRAs of a request, as a list of "name" or "name:weight"; one that was distilled to few steps
sets the settings of sampling."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.lora import loras_from_texts, texts_from_loras
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.model_input import ModelInput
from ipadapter_demo.ui.run.tab import Properties, Recommended, Update, Widgets
from ipadapter_demo.ui.widgets.samplers import noise_schedule_properties

# gradio tells what is taken away only where a token's own × is pressed. The × of all, and
# Backspace, press that.
TAKE_AWAY = """() => {
    const take = (event) => {
        const { target, key } = event, field = target.closest?.(".loras");
        const all = target.closest?.(".remove-all") && (!key || key === "Enter");
        if (!field || !(all || key === "Backspace" && target.value === "")) return;
        event.stopPropagation();
        event.preventDefault();
        const own = [...field.querySelectorAll(".token .token-remove")].reverse();
        own.slice(0, all ? own.length : 1).forEach((one) => one.click());
    };
    for (const kind of ["click", "keydown"]) document.addEventListener(kind, take, true);
}"""


def loras_input(info: ModelInfo) -> gr.Dropdown:
    """Hidden where the model has none."""
    return gr.Dropdown(
        label="LoRAs",
        info="name, or name:weight, as style:0.7; without a weight it is 1. A LoRA for few steps "
        "also sets steps, guidance and sampler",
        multiselect=True,
        allow_custom_value=True,
        elem_classes="loras",
        **loras_properties(info),
    )


def loras_properties(info: ModelInfo) -> Properties:
    """The choices of a model, those chosen that a request has which names none."""
    names = info.lora_names
    return {
        "choices": names,
        "value": texts_from_loras(info.usual_loras),
        "visible": bool(names),
    }


def on_few_step(
    manager: ModelManager, model: ModelInput, widgets: Widgets, usual: Recommended
) -> None:
    """Where a LoRA that was distilled to few steps is chosen, the settings that go with it; where
    it is taken away again, those of `usual`, the model's own."""
    settings = ("steps", "guidance", "sampler", "noise_schedule", "repaint_passes")
    names = [name for name in settings if name in widgets]

    def chosen(event: gr.SelectData, name: str) -> Update:
        with shown_errors():
            info = manager.info_of(name)
            picked = loras_from_texts([event.value])
            if info is None or (few := info.few_step_of(picked)) is None:
                return {}
            if not event.selected:
                return {widgets[n]: gr.update(**usual[n](info)) for n in names}
            found = _properties(few)
            return {widgets[n]: gr.update(**found[n]) for n in names}

    widgets["loras"].select(
        chosen,
        inputs=model.chosen,
        outputs=[widgets[name] for name in names],
        preprocess=False,
        show_progress="hidden",
        api_visibility="private",
        trigger_mode="multiple",  # one that is chosen or taken away is not missed for another
        queue=False,
    )


def _properties(few: FewStep) -> dict[str, Properties]:
    """`repaint_passes` above 1 would take the sampler away."""
    values = few.fields | {"repaint_passes": 1}
    found: dict[str, Properties] = {name: {"value": value} for name, value in values.items()}
    return found | {"noise_schedule": noise_schedule_properties(few.sampler, few.noise_schedule)}

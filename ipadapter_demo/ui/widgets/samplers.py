"""The sampler, and the noise schedules that it takes."""

from __future__ import annotations

import gradio as gr

from ipadapter_demo.sampling import SAMPLERS, NoiseSchedule, Sampler, noise_schedules_of
from ipadapter_demo.ui.run.tab import Properties, Widgets


def sampler_inputs(sampler: Sampler, noise_schedule: NoiseSchedule = "default") -> Widgets:
    """Both in one row; the second one is there only where it has an effect."""
    widgets: Widgets = {
        "sampler": gr.Dropdown(list(SAMPLERS), value=sampler, label="Sampler"),
        "noise_schedule": gr.Dropdown(
            label="Noise schedule", **noise_schedule_properties(sampler, noise_schedule)
        ),
    }
    gr.on(
        [widgets["sampler"].change],
        lambda sampler, chosen: gr.update(**noise_schedule_properties(sampler, chosen)),
        inputs=[widgets["sampler"], widgets["noise_schedule"]],
        outputs=widgets["noise_schedule"],
        preprocess=False,  # a file that is restored may set both at once
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return widgets


def noise_schedule_properties(sampler: Sampler, chosen: object) -> Properties:
    """`chosen` stays where the sampler takes it."""
    able = noise_schedules_of(sampler)
    return {
        "choices": [("the model's own" if name == "default" else name, name) for name in able],
        "value": chosen if chosen in able else "default",
        "visible": len(able) > 1,
    }

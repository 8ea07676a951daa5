"""Properties of widgets that depend on the model: its recommendations, and what it offers."""

from __future__ import annotations

from ipadapter_demo.pipeline import ModelInfo
from ipadapter_demo.ui.run.tab import Properties, Recommended
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.buttons import live_properties
from ipadapter_demo.ui.widgets.layers import layers_properties
from ipadapter_demo.ui.widgets.loras import loras_properties
from ipadapter_demo.ui.widgets.prompts import second_prompt_properties
from ipadapter_demo.ui.widgets.reference_slots import (
    REFERENCES,
    adapter_properties,
    face_properties,
    own_layers_properties,
)
from ipadapter_demo.ui.widgets.samplers import noise_schedule_properties
from ipadapter_demo.ui.widgets.slots import STRUCTURES, slot, structure_choices
from ipadapter_demo.ui.widgets.vaes import vae_properties


def _adapter(info: ModelInfo) -> Properties:
    return {
        "choices": components.adapter_choices(info),
        "value": info.adapters[0],
        "visible": len(info.adapters) > 1,
    }


def _kind(info: ModelInfo) -> Properties:
    choices = structure_choices(info)
    return {"choices": choices, "value": choices[0][1] if choices else None}


# Of every tab; a tab replaces those that are its own.
RECOMMENDED: Recommended = {
    "steps": lambda info: {"value": info.recommended.steps},
    "guidance": lambda info: {"value": info.recommended.guidance},
    "guidance_start": lambda info: {"value": info.recommended.guidance_window[0]},
    "guidance_end": lambda info: {"value": info.recommended.guidance_window[1]},
    "sampler": lambda info: {"value": info.recommended.sampler},
    "noise_schedule": lambda info: noise_schedule_properties(
        info.recommended.sampler, info.recommended.noise_schedule
    ),
    "repaint_passes": lambda info: {"value": info.recommended.repaint_passes},
    "context": lambda info: {"value": info.recommended.context},
    "background_weight": lambda info: {"value": info.recommended.background_weight},
    "image_scale": lambda info: {"value": info.recommended.image_scale},
    "shape": lambda info: {"choices": components.shape_choices(info), "value": ""},
    "width": lambda info: {"value": 0},
    "height": lambda info: {"value": 0},
    "prompt": lambda info: {"info": components.words_known(info)},
    "adapter": _adapter,
    "loras": loras_properties,
    "vae": lambda info: vae_properties(info) | {"value": ""},
    "live": live_properties,
    **{slot("kind", k): _kind for k in STRUCTURES},
    "image_layers": layers_properties,
    **{slot("face", k): face_properties for k in REFERENCES},
    **{slot("reference_adapter", k): adapter_properties for k in REFERENCES},
    **{slot("reference_layers", k): own_layers_properties for k in REFERENCES},
    "prompt_2": second_prompt_properties,
    "negative_prompt_2": second_prompt_properties,
}

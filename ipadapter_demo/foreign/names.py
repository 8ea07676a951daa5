"""Names of samplers, noise levels, layers and adapters in other programs."""

from __future__ import annotations

import re

from ipadapter_demo.layer_presets import LAYER_PRESETS, LayerPreset
from ipadapter_demo.sampling import NoiseSchedule, Sampler

# Of A1111, ComfyUI and InvokeAI. "DPM++ SDE" is another method than "DPM++ 2M SDE".
SAMPLERS: dict[str, Sampler] = {
    "dpm++ 2m": "dpm++",
    "dpmpp_2m": "dpm++",
    "dpm++ 2m sde": "dpm++ sde",
    "dpmpp_2m_sde": "dpm++ sde",
    "dpmpp_2m_sde_gpu": "dpm++ sde",
    "euler": "euler",
    "euler a": "euler_a",
    "euler_a": "euler_a",
    "euler_ancestral": "euler_a",
    "heun": "heun",
    "ddim": "ddim",
    "plms": "pndm",
    "pndm": "pndm",
    "unipc": "unipc",
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "lcm": "lcm",
    "tcd": "tcd",
}
# ComfyUI's "simple" takes every n-th level from the noisiest on, which is the trailing spacing of
# arXiv 2305.08891, table 2; "sgm_uniform" is the same but for rounding, "ddim_uniform" leads.
NOISE_SCHEDULES: dict[str, NoiseSchedule] = {
    "": "default",
    "normal": "default",
    "uniform": "default",
    "automatic": "default",
    "karras": "karras",
    "simple": "trailing",
    "sgm_uniform": "trailing",
    "sgm uniform": "trailing",
    "ddim": "leading",
    "ddim_uniform": "leading",
}
# A1111's "Automatic" is the one that a sampler is listed with:
# https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/v1.10.1/modules/sd_samplers_kdiffusion.py
AUTOMATIC = {"dpm++ 2m": "karras", "dpm++ 2m sde": "exponential"}
# Methods of InvokeAI.
METHODS: dict[str, LayerPreset] = {
    "full": "all",
    "style": "style",
    "composition": "layout",
}
# Weight types of ComfyUI_IPAdapter_plus: the presets that are named as there are these as well.
WEIGHT_TYPES: dict[str, LayerPreset] = {
    **{preset: preset for preset in LAYER_PRESETS if preset not in ("all", "style", "layout")},
    "linear": "all",
    "original": "all",
    "standard": "all",
    "style transfer": "style",
    "strong style transfer": "strong style",
    "style transfer precise": "precise style",
    "style and composition": "style+layout",
}
# Looking behind makes it read a run of spaces once, and not once from each of them.
_ENDINGS = re.compile(
    r"\.(safetensors|bin|pth|pt|ckpt)$|(?<!\s)\s*\[[0-9a-f]{4,}\]$", re.IGNORECASE
)


def stem(name: str) -> str:
    """The name of a model without folder, ending, and the hash that A1111 adds."""
    file = name.replace("\\", "/").rpartition("/")[2].strip()
    return _ENDINGS.sub("", _ENDINGS.sub("", file))


def variant(adapter: str) -> str:
    """The variant that the name of an IP-Adapter tells: base, plus, or one for faces."""
    words = adapter.lower().replace("_", "-").replace(" ", "-")
    if "faceid" in words:
        return "faceid"
    if "face" in words:
        return "full-face" if "full" in words else "plus-face"
    return "plus" if "plus" in words else "base"

"""How our pictures are held against those of diffusers' own pipelines, on the very same weights.

Pixels in [0, 1] may be TOLERANCE apart in float32; a grey level is 4e-3. Weights lie in our order
on both sides, since sums are rounded by it; beside torch's plain layers pictures are PLAIN apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor, nn

from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.packed import pack
from ipadapter_demo.pipeline import ImagePromptPipeline, drawing
from ipadapter_demo.request import GenerateRequest, Reference, Sampler
from tests.tiny import box_mask, picture

TOLERANCE, PLAIN = 1e-5, 1e-4
STEPS, SEED, COUNT, GUIDANCE = 4, 11, 2, 3.0
ALIGNED = box_mask((16, 8, 48, 40))  # whole latent cells, of 4 pixels
ENCODER_SIZE = 16  # square references of this size need no preprocessing


SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpm++": (DPMSolverMultistepScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),  # latents have no bounds
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "tcd": (TCDScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm++ sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
}
NOISE_LEVELS: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
}


def request(**changes: Any) -> GenerateRequest:
    common = {"prompt": "a cube", "negative_prompt": "blur", "steps": STEPS, "seed": SEED}
    return GenerateRequest(**{**common, "count": COUNT, "guidance": GUIDANCE, **changes})


def reference(seed: int = 1, **settings: Any) -> Reference:
    return Reference(image=picture(seed, ENCODER_SIZE, ENCODER_SIZE), **settings)


def pixels_of(pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch) -> Any:
    seen: list[Tensor] = []
    to_images = drawing.images_from_pixels

    def spy(pixels: Tensor) -> list[Image.Image]:
        seen.append(pixels)
        return to_images(pixels)

    monkeypatch.setattr(drawing, "images_from_pixels", spy)

    def generate(request: GenerateRequest) -> Tensor:
        pipeline.generate(request)
        return (seen[-1] / 2 + 0.5).clamp(0, 1)

    return generate


def theirs(
    pipeline: Any,
    entry: CatalogEntry,
    sampler: Sampler = "dpm++",
    scale: Any = None,
    adapter: str | Sequence[str] = "base",
    noise_levels: Mapping[str, Any] = MappingProxyType({}),
    **arguments: Any,
) -> Tensor:
    """What a diffusers pipeline makes of the same request; `scale` loads the adapter, or several,
    and `noise_levels` are further settings of the scheduler."""
    if scale is not None:
        files = entry.adapters
        pipeline.load_ip_adapter(
            str(entry.folder),
            subfolder="",
            weight_name=files[adapter] if isinstance(adapter, str) else [files[a] for a in adapter],
            image_encoder_folder=None,
        )
        pipeline.set_ip_adapter_scale(scale)
    kind, settings = SCHEDULERS[sampler]
    before = pipeline.scheduler  # one pipeline may draw several cases
    pipeline.scheduler = kind.from_config(before.config, **settings, **noise_levels)
    if sampler == "tcd":
        arguments["eta"] = 0.3  # its paper's γ; diffusers' pipelines have 0
    pipeline.set_progress_bar_config(disable=True)
    common = {
        "prompt": "a cube",
        "negative_prompt": "blur",
        "guidance_scale": GUIDANCE,
        "num_inference_steps": STEPS,
        "num_images_per_prompt": COUNT,
        "output_type": "pt",
    }
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(COUNT)]
    try:
        return pipeline(**{**common, **arguments}, generator=generators).images
    finally:
        pipeline.scheduler = before


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.01, "a flat picture would prove nothing"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def loaded(kind: Any, entry: CatalogEntry, **parts: Any) -> Any:
    """A diffusers pipeline, its weights in our order."""
    pipeline = kind.from_pretrained(entry.folder, local_files_only=True, **parts)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            pack(part.requires_grad_(False))
    return pipeline

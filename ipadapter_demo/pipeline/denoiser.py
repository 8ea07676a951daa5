"""A UNet behind the one call that the sampler makes. All that only a UNet has stands here: its
cross-attention, the residuals of structure networks, SDXL's size conditioning, and the further
input channels of one trained for inpainting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.adapter import fill_kv_cache
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.compiled import unet_output
from ipadapter_demo.models.loras import Loras
from ipadapter_demo.models.structure import total
from ipadapter_demo.pipeline.conditions import Conditions
from ipadapter_demo.pipeline.schedule import NoiseLevel

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True, slots=True, eq=False)
class UNetDenoiser:
    """The UNets of SD 1.5 and SDXL, with image adapters attached."""

    unet: UNet2DConditionModel
    loras: Loras
    chosen: tuple[Lora, ...] = ()  # of them

    def prepare(self, conditions: Conditions) -> None:
        """Once, before the first step."""
        fill_kv_cache(self.unet, [timed.prompt for timed in conditions.image_prompts])

    def predict(self, latents: Tensor, level: NoiseLevel, conditions: Conditions) -> Tensor:
        """The UNet's output for latents (rows, C, h, w), under the conditions of one step."""
        self.loras.merge(self.chosen)  # another request may have had others in the step before
        text, t = conditions.text_states, level.timestep
        residuals = total(
            control.condition(
                latents, t, text, control.weight, conditions.added, conditions.unconditional
            )
            for control in conditions.structures
        )
        prompts = tuple(timed.prompt for timed in conditions.image_prompts)
        return unet_output(
            self.unet,
            _with_mask(latents, conditions.mask_conditioning),
            t,
            prompts,
            encoder_hidden_states=text,
            added_cond_kwargs=conditions.added,
            **residuals.unet_arguments(),
        )


def reads_mask(model: BaseModel) -> bool:
    """True if the UNet was trained for inpainting: beside the latents it reads the mask and what is
    left around it."""
    return model.unet.config.in_channels > model.vae.channels


def _with_mask(latents: Tensor, mask_conditioning: Tensor | None) -> Tensor:
    """For the UNet alone: a ControlNet reads the latents as they are."""
    if mask_conditioning is None:
        return latents
    halves = len(latents) // len(mask_conditioning)
    return torch.cat([latents, mask_conditioning.repeat(halves, 1, 1, 1)], dim=1)

"""A UNet behind the calls that the sampler makes. All that only a UNet has stands here: its
cross-attention, the residuals of structure networks, SDXL's size conditioning, and the further
input channels of one trained for inpainting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.adapter import fill_kv_cache
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.compiled import unet_output
from ipadapter_demo.models.loras import Loras
from ipadapter_demo.models.structure import ControlResiduals, total
from ipadapter_demo.pipeline.conditions import ActiveControl, Conditions, joined
from ipadapter_demo.pipeline.sampler import Call

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
        self.loras.merge(self.chosen)  # tokens that join the text's go through the UNet's own K, V
        fill_kv_cache(self.unet, [timed.prompt for timed in conditions.image_prompts])

    def predict(self, calls: Sequence[Call[Conditions]]) -> Sequence[Tensor]:
        """The UNet's output for each of several calls, whose latents are of one size: one call of
        the UNet with a timestep for each row. A call by itself is what it always was."""
        self.loras.merge(self.chosen)  # another request may have had others in the step before
        if len(calls) == 1:
            [call] = calls
            return [self._output(call.latents, call.level.timestep, call.conditions)]
        counts = [len(call.latents) for call in calls]
        timesteps = [
            # samplers have whole timesteps or fractions; the UNet reads both as float32
            call.level.timestep.to(call.latents.device, torch.float32).expand(count)
            for call, count in zip(calls, counts, strict=True)
        ]
        output = self._output(
            torch.cat([call.latents for call in calls]),
            torch.cat(timesteps),
            joined([call.conditions for call in calls]),
        )
        return output.split(counts)

    def _output(self, latents: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """t is a scalar or (rows,)."""
        residuals = total(
            _residuals(control, latents, t, conditions) for control in conditions.structures
        )
        prompts = tuple(timed.prompt for timed in conditions.image_prompts)
        return unet_output(
            self.unet,
            _with_mask(latents, conditions.mask_conditioning),
            t,
            prompts,
            encoder_hidden_states=conditions.text_states,
            added_cond_kwargs=conditions.added,
            **residuals.unet_arguments(),
        )


def reads_mask(model: BaseModel) -> bool:
    """True if the UNet was trained for inpainting: beside the latents it reads the mask and what is
    left around it."""
    return model.unet.config.in_channels > model.vae.channels


def _residuals(
    control: ActiveControl, latents: Tensor, t: Tensor, conditions: Conditions
) -> ControlResiduals:
    """Of a structure network that runs for the rows it acts on, and adds zeros to the others."""
    rows = control.acts_on(len(latents), conditions.unconditional)
    first, last = rows[0], rows[-1] + 1
    contiguous = len(rows) == last - first
    chosen = slice(first, last) if contiguous else torch.tensor(rows, device=latents.device)
    added = conditions.added
    found = control.condition(
        latents[chosen],
        t[chosen] if t.ndim else t,
        conditions.text_states[chosen],
        control.weight,
        added and {name: given[chosen] for name, given in added.items()},
    )
    return found if len(rows) == len(latents) else found.on_rows(chosen, len(latents))


def _with_mask(latents: Tensor, mask_conditioning: Tensor | None) -> Tensor:
    """For the UNet alone: a ControlNet reads the latents as they are."""
    if mask_conditioning is None:
        return latents
    halves = len(latents) // len(mask_conditioning)
    return torch.cat([latents, mask_conditioning.repeat(halves, 1, 1, 1)], dim=1)

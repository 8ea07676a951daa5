"""The part of inpainting between steps: the picture outside the mask is put back, and a step that
is taken again begins from its own noise level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ipadapter_demo.pipeline.latents import LatentInit
from ipadapter_demo.pipeline.sampler import LoopHooks
from ipadapter_demo.pipeline.schedule import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class InpaintHooks(LoopHooks):
    """`mask` (images or 1, 1, h, w) is 1 where latents are replaced; None where the UNet reads the
    mask itself, and was trained to draw the whole picture."""

    init: LatentInit
    mask: Tensor | None
    passes: int = 1

    def after_call(self, latents: Tensor, schedule: Schedule, i: int) -> Tensor:
        """Outside the mask, the given picture at the noise level of the call to come."""
        if self.mask is None:
            return latents
        return (1 - self.mask) * schedule.noised(self.init, i + 1) + self.mask * latents

    def before_repeat(self, latents: Tensor, schedule: Schedule, i: int) -> Tensor:
        return schedule.renoised(latents, self.init.more_noise(), i)

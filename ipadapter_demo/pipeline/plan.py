"""The plan of one request, made before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from ipadapter_demo.imaging import pixels_from_images
from ipadapter_demo.pipeline.latents import LatentEncoder, LatentInit
from ipadapter_demo.pipeline.sampler import LoopHooks
from ipadapter_demo.pipeline.sizes import Size, reshaped
from ipadapter_demo.pipeline.step_count import init_strength
from ipadapter_demo.request import GenerateRequest


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A picture from noise, or from a given one. `InpaintPlan` replaces a part of one."""

    asked: GenerateRequest
    request: GenerateRequest  # the one that is recorded: `asked`, but for what cannot be
    drawn: GenerateRequest  # what of it the model draws
    size: Size  # that the model works at

    def init_pixels(self) -> Tensor | None:
        """The picture that is started from, (1, 3, H, W) at the working size."""
        if self.drawn.init_image is None:
            return None
        return pixels_from_images([reshaped(self.drawn.init_image, self.size, "crop")])

    def latent_init(self, latents: LatentEncoder) -> LatentInit:
        drawn = self.drawn
        return latents.init(drawn.seeds, self.size, self.init_pixels(), init_strength(drawn))

    def hooks(self, init: LatentInit, reads_mask: bool) -> LoopHooks:
        return LoopHooks()

    def restored(self, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        """The pictures of the request, from those that the model drew."""
        return tuple(images)

    def restored_preview(self, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        return tuple(images)

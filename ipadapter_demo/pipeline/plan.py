"""The plan of one request, made before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from ipadapter_demo.imaging import pixels_from_images
from ipadapter_demo.pipeline.latents import LatentEncoder, LatentInit
from ipadapter_demo.pipeline.passes import passes_of, sizes_of_passes
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
    size: Size  # that the model works at, in the first pass where there are two

    @property
    def passes(self) -> tuple[Plan, ...]:
        """A plan for each pass. Raises RequestError where the second is too large."""
        sizes = sizes_of_passes(self.drawn, self.size)
        return tuple(
            replace(self, drawn=drawn, size=size)
            for drawn, size in zip(passes_of(self.drawn), sizes, strict=True)
        )

    def init_pixels(self) -> Tensor | None:
        """The picture that is started from, (1, 3, H, W) at the working size."""
        if self.drawn.init_image is None:
            return None
        return pixels_from_images([reshaped(self.drawn.init_image, self.size, "crop")])

    def latent_init(self, latents: LatentEncoder, before: Tensor | None = None) -> LatentInit:
        """`before` are the latents (B, C, h, w) that a second pass begins from."""
        drawn = self.drawn
        if before is None and (pixels := self.init_pixels()) is not None:
            before = latents.encode(pixels)
        return latents.init(drawn.seeds, self.size, before, init_strength(drawn))

    def hooks(self, init: LatentInit, reads_mask: bool) -> LoopHooks:
        return LoopHooks()

    def restored(self, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        """The pictures of the request, from those that the model drew."""
        return tuple(images)

    def restored_preview(self, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        return tuple(images)

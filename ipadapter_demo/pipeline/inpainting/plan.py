"""Inpainting, planned: a part of a picture is replaced, and no pixel outside it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from ipadapter_demo.imaging import paste_inside, pixels_from_images, resize_image
from ipadapter_demo.pipeline.effective import effective_request
from ipadapter_demo.pipeline.inpainting.crop import crop_to_mask, uncrop, uncrop_preview
from ipadapter_demo.pipeline.inpainting.hooks import InpaintHooks
from ipadapter_demo.pipeline.inpainting.mask import latent_mask
from ipadapter_demo.pipeline.inpainting.seam import match_seam_color
from ipadapter_demo.pipeline.latents import LatentInit
from ipadapter_demo.pipeline.passes import sizes_of_passes
from ipadapter_demo.pipeline.plan import Plan
from ipadapter_demo.pipeline.sampler import LoopHooks
from ipadapter_demo.pipeline.sizes import working_size
from ipadapter_demo.request import GenerateRequest, Inpaint


@dataclass(frozen=True, slots=True, eq=False)
class InpaintPlan(Plan):
    """The part around the mask is drawn at the working size, and put back where it was."""

    @classmethod
    def of(cls, asked: GenerateRequest, native_size: int) -> InpaintPlan:
        request = effective_request(asked)
        drawn = crop_to_mask(request)
        return cls(asked, request, drawn, working_size(drawn, native_size))

    @property
    def _whole(self) -> Inpaint:
        assert self.request.inpaint is not None
        return self.request.inpaint

    @property
    def _part(self) -> Inpaint:
        assert self.drawn.inpaint is not None
        return self.drawn.inpaint

    def init_pixels(self) -> Tensor:
        return pixels_from_images([resize_image(self._part.image, self.size)])

    def hooks(self, init: LatentInit, reads_mask: bool) -> LoopHooks:
        """`reads_mask`: the UNet was trained for inpainting."""
        height, width = init.noise.shape[-2:]
        mask = None if reads_mask else latent_mask(self._part.mask, (height, width)).to(init.noise)
        return InpaintHooks(init, mask, self._part.repaint_passes)

    def restored(self, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        """The whole picture with the drawn part inside the mask: its colours blended into
        those beside the seam, its edge feathered."""
        given, done = self._whole, []
        for image in images:
            drawn = match_seam_color(given.image, uncrop(given, image), given.mask)
            done.append(paste_inside(given.image, drawn, given.mask, given.feather))
        return tuple(done)

    def restored_preview(self, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        if self._whole.context == 1:
            return tuple(images)
        return tuple(uncrop_preview(self._whole, image) for image in images)


def plan_for(asked: GenerateRequest, native_size: int) -> Plan:
    """The plan of a request, on a model whose own size is `native_size` squared. Raises
    RequestError for an upscale that is too large."""
    if asked.inpaint is not None:
        return InpaintPlan.of(asked, native_size)
    plan = Plan(asked, asked, asked, working_size(asked, native_size))
    sizes_of_passes(asked, plan.size)
    return plan

"""From a request to what the denoiser needs: text states, image prompts, read structure maps."""

from __future__ import annotations

import torch
from PIL import Image

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.conditioning.images import ReferenceEncoder
from ipadapter_demo.pipeline.conditioning.maps import MapReader
from ipadapter_demo.pipeline.conditioning.text import PromptReader, added_conditions
from ipadapter_demo.pipeline.conditions import Conditions, ever_active
from ipadapter_demo.pipeline.denoiser import reads_mask
from ipadapter_demo.pipeline.inpainting.mask import mask_conditioning
from ipadapter_demo.pipeline.latents import LatentEncoder
from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.pipeline.step_count import guided_calls, steps_taken
from ipadapter_demo.request import GenerateRequest


class Conditioner:
    """Reads requests with one model. Every encoder runs on one input at a time and is cached, so
    what a request gets never depends on the requests around it."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.prompts = PromptReader(model)
        self.references = ReferenceEncoder(model)
        self.maps = MapReader(model)
        self.latents = LatentEncoder(model)

    @torch.no_grad()
    def condition(
        self,
        request: GenerateRequest,
        size: Size,
        record_attention: bool = False,
        maps: tuple[Image.Image, ...] | None = None,
    ) -> Conditions:
        """`record_attention`: with an AttentionRecorder for each image prompt. `maps` are those of
        its structures where they were drawn before."""
        guided, count = guided_calls(request) > 0, request.count
        texts = self.prompts.states(request)
        maps = self.maps.structure_maps(request.structures, size) if maps is None else maps
        steps = steps_taken(request)
        controls = (
            self.maps.control(structure, drawn, request.inpaint)
            for structure, drawn in zip(request.structures, maps, strict=True)
            if structure.weight > 0 and ever_active(steps, structure.window)
        )
        return Conditions(
            text_states=torch.cat([text.states.expand(count, -1, -1) for text in texts]),
            added=added_conditions(texts, count, size),
            image_prompts=self.references.prompts(
                request, size, texts[0] if guided else None, record_attention
            ),
            image_window=request.image_window,
            structures=(*controls, *self.maps.inpaint_controls(request.inpaint, size)),
            maps=maps,
            unconditional=count if guided else 0,
            guidance_window=request.guidance_window,
            mask_conditioning=mask_conditioning(request.inpaint, size, self.latents.of(request.vae))
            if reads_mask(self.model)
            else None,
        )

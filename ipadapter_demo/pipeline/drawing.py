"""The work of one request, as the engine does it: conditions, steps, decoding."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.conditioning import Conditioner
from ipadapter_demo.pipeline.conditions import Conditions
from ipadapter_demo.pipeline.denoiser import UNetDenoiser, reads_mask
from ipadapter_demo.pipeline.engine import Job
from ipadapter_demo.pipeline.events import Preview
from ipadapter_demo.pipeline.plan import Plan
from ipadapter_demo.pipeline.sampler import Call, Guidance, Step, denoise
from ipadapter_demo.pipeline.samplers import new_scheduler
from ipadapter_demo.pipeline.schedule import Schedule
from ipadapter_demo.pipeline.warnings import warnings_for

DECODED_AGAIN = (
    "The autoencoder gave no finite pixels in half precision; the picture was decoded "
    "again in float32."
)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The pictures as the model drew them, of a request that was begun at a time."""

    images: tuple[Image.Image, ...]
    warnings: tuple[str, ...]
    conditions: Conditions
    began: float  # by time.monotonic


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A planned request with the model that draws it. `share` requests at most share its calls."""

    model: BaseModel
    conditioner: Conditioner
    plan: Plan
    preview_every: int = 0
    record_attention: bool = False

    def job(self, share: int, background: bool) -> Job:
        """It hands over a Preview a step, then what was Drawn."""
        drawn = self.plan.drawn
        denoiser = UNetDenoiser(self.model.unet, self.model.loras, drawn.loras or ())
        return Job(
            self._work(denoiser),
            denoiser.predict,
            fits=(self.plan.size, denoiser.chosen, self.conditioner.prompts.windows(drawn)),
            rows=drawn.count * (2 if drawn.guidance > 1.0 else 1),
            share=share,
            background=background,
        )

    def _work(self, denoiser: UNetDenoiser) -> Generator[object, None, None]:
        began, drawn = time.monotonic(), self.plan.drawn
        conditions = self.conditioner.condition(drawn, self.plan.size, self.record_attention)
        denoiser.prepare(conditions)
        latents = None
        for event in self._steps(conditions):
            if isinstance(event, Call):
                yield event
                continue
            latents = event.latents
            images: tuple[Image.Image, ...] = ()
            show = self.preview_every > 0 and event.number % self.preview_every == 0
            if show and event.number < event.steps:
                yield None
                pixels = self.model.vae.pixels_from_latents(event.clean)
                images = tuple(images_from_pixels(pixels.nan_to_num()))
            yield Preview(event.number, event.steps, images)
        yield None
        assert latents is not None
        images, warnings = decoded(self.model, latents)
        said = warnings_for(self.plan.request, drawn, self.plan.size, conditions.maps, self.model)
        yield Drawn(images, said + warnings, conditions, began)

    def _steps(self, conditions: Conditions) -> Generator[Call[Conditions] | Step, None, None]:
        model, drawn = self.model, self.plan.drawn
        init = self.plan.latent_init(self.conditioner.latents)
        scheduler = new_scheduler(drawn.sampler, model.scheduler_config, drawn.noise_schedule)
        return denoise(
            Schedule(scheduler, drawn.steps, init.strength, model.device),
            Guidance(drawn.guidance, drawn.guidance_rescale),
            init,
            conditions,
            self.plan.hooks(init, reads_mask(model)),
        )


def decoded(model: BaseModel, latents: Tensor) -> tuple[tuple[Image.Image, ...], tuple[str, ...]]:
    """The pictures, and a warning where they had to be decoded again."""
    warnings: tuple[str, ...] = ()
    pixels = model.vae.pixels_from_latents(latents)
    if not torch.isfinite(pixels).all() and torch.isfinite(latents).all():
        pixels, warnings = model.vae.pixels_in_float32(latents), (DECODED_AGAIN,)
    if not torch.isfinite(pixels).all():
        raise ModelError(
            f"{model.entry.name} in {model.dtype} gave pixels that "
            "are not finite: load it in float32"
        )
    return tuple(images_from_pixels(pixels)), warnings

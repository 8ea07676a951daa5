"""The work of one request, as the engine does it: conditions, steps, decoding."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.conditioning import Conditioner
from ipadapter_demo.pipeline.conditioning.images import attention_maps
from ipadapter_demo.pipeline.conditions import Conditions
from ipadapter_demo.pipeline.denoiser import UNetDenoiser, reads_mask
from ipadapter_demo.pipeline.events import Preview
from ipadapter_demo.pipeline.jobs import Job
from ipadapter_demo.pipeline.plan import Plan
from ipadapter_demo.pipeline.price import pieces_of, price_of, rank_of
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
    maps: tuple[Image.Image, ...]
    attention_maps: tuple[tuple[Image.Image, ...], ...]
    began: float  # by time.monotonic


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A planned request with the model that draws it. `share` requests at most share its calls."""

    model: BaseModel
    conditioner: Conditioner
    plan: Plan
    preview_every: int = 0
    record_attention: bool = False

    @property
    def pieces(self) -> list[Plan]:
        """The same pictures in parts, one after the other, where a step of all takes long."""
        plan, native = self.plan, self.model.native_size
        return [replace(plan, drawn=part) for part in pieces_of(plan.drawn, plan.size, native)]

    def job(
        self,
        share: int,
        background: bool,
        owner: object = None,
        most_seconds: float | None = None,
    ) -> Job:
        """It hands over a Preview a step, then what was Drawn."""
        drawn = self.plan.drawn
        denoiser = UNetDenoiser(self.model.unet, self.model.loras, drawn.loras or ())
        entry, native, first = self.model.entry, self.model.native_size, self.pieces[0].drawn
        price = price_of(drawn, self.plan.size, native, entry.structures, self.preview_every)
        return Job(
            self._work(denoiser),
            denoiser.predict,
            fits=(self.plan.size, denoiser.chosen, self.conditioner.prompts.windows(drawn)),
            rows=first.count * (2 if drawn.guidance > 1.0 else 1),
            share=share,
            background=background,
            rank=rank_of(price.total),
            owner=owner,
            most_seconds=most_seconds,
        )

    def _work(self, denoiser: UNetDenoiser) -> Generator[object, None, None]:
        began, drawn = time.monotonic(), self.plan.drawn
        images: list[Image.Image] = []
        warnings: dict[str, None] = {}
        attention: list[tuple[Image.Image, ...]] = []
        pieces = self.pieces
        for number, piece in enumerate(pieces):
            conditions = self.conditioner.condition(piece.drawn, piece.size, self.record_attention)
            denoiser.prepare(conditions)
            latents = None
            for event in self._steps(piece, conditions):
                if isinstance(event, Call):
                    yield event
                    continue
                latents = event.latents
                shown: tuple[Image.Image, ...] = ()
                show = self.preview_every > 0 and event.number % self.preview_every == 0
                if show and event.number < event.steps:
                    yield None
                    pixels = self.model.vae.pixels_from_latents(event.clean)
                    shown = (*images, *images_from_pixels(pixels.nan_to_num()))
                done, steps = number * event.steps + event.number, len(pieces) * event.steps
                yield Preview(done, steps, shown)
            yield None
            assert latents is not None
            made, said = decoded(self.model, latents)
            images += made
            warnings |= dict.fromkeys(said)
            attention += attention_maps(conditions.image_prompts, piece.drawn.count)
        said = warnings_for(self.plan.request, drawn, self.plan.size, conditions.maps, self.model)
        yield Drawn(tuple(images), (*said, *warnings), conditions.maps, tuple(attention), began)

    def _steps(
        self, plan: Plan, conditions: Conditions
    ) -> Generator[Call[Conditions] | Step, None, None]:
        model, drawn = self.model, plan.drawn
        init = plan.latent_init(self.conditioner.latents)
        scheduler = new_scheduler(drawn.sampler, model.scheduler_config, drawn.noise_schedule)
        return denoise(
            Schedule(scheduler, drawn.steps, init.strength, model.device),
            Guidance(drawn.guidance, drawn.guidance_rescale),
            init,
            conditions,
            plan.hooks(init, reads_mask(model)),
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
